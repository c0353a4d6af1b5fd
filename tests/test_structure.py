"""What holds the project together, without running it: the rooms of thaw/, the stages, and dvc.yaml."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from inspect import signature
from pathlib import Path

import pytest

from tests.helpers.project import CODE, PIPELINE, imports, place, used_by
from thaw.artifacts import PROJECT, STAGES

# What thaw/ is made of. Each may use those before it: first the modules that all stand on, then the rooms.
GROUND = ("errors.py", "machine.py", "parallel.py", "cluster.py", "chatter.py", "artifacts.py", "architectures.py")
ROOMS = ("config", "data", "networks", "learning", "audit", "evidence", "models", "runs", "sweeps")
ORDER = [f"thaw/{name}" for name in (*GROUND, *ROOMS)]
LIBRARY = [file for file in CODE if file.startswith("thaw/")]
OTHER_CODE = sorted(
    path.relative_to(PROJECT).as_posix()
    for folder in ("hydra_plugins", "benchmarks", "tools")
    for path in PROJECT.glob(f"{folder}/*.py")
)


def offers(room: str) -> set[str]:
    """The files that a room says it offers."""
    names: list[str] = importlib.import_module(room.replace("/", ".")).__all__
    return {f"{room}/{name}.py" for name in names}


def test_thaw_has_these_rooms_and_no_others() -> None:
    assert {place(file) for file in LIBRARY} == {*ORDER}


@pytest.mark.parametrize("file", LIBRARY)
def test_imports_go_down(file: str) -> None:
    """To those before it in ``ORDER``, or to the same room."""
    mine = place(file)
    assert {place(other) for other in imports(file)} <= {*ORDER[: ORDER.index(mine)], mine}


@pytest.mark.parametrize("file", [*CODE, *OTHER_CODE])
def test_a_room_is_used_by_what_it_offers(file: str) -> None:
    others = {other for other in imports(file) if place(other) in ORDER[len(GROUND) :] and place(other) != place(file)}
    assert others <= set().union(*(offers(place(other)) for other in others))


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert {*TopologicalSorter({file: imports(file) for file in CODE}).static_order()} == {*CODE}


@pytest.mark.parametrize("room", ORDER[len(GROUND) :])
def test_a_room_says_what_it_is_for_and_what_it_offers(room: str) -> None:
    assert offers(room) <= {*CODE}
    said = ast.get_docstring(ast.parse((PROJECT / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    purpose, _, offered = said.partition("\n\nOffers ")
    assert purpose.count("\n") == 0
    assert offered.count("\n") <= 1
    named = set(re.findall(r"``(\w+)``", offered))
    assert named == {Path(file).stem for file in offers(room)}


@pytest.mark.parametrize("file", CODE)
def test_a_file_holds_one_thing(file: str) -> None:
    most = 90 if file.startswith("stages/") else 400
    assert len((PROJECT / file).read_text(encoding="utf-8").splitlines()) <= most


def test_the_pipeline_has_the_stages_in_their_order() -> None:
    assert tuple(PIPELINE) == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_rooms_it_uses(stage: str) -> None:
    named = {dependency for dependency in PIPELINE[stage]["deps"] if dependency.startswith(("thaw/", "stages/"))}
    assert named == used_by(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_given_exactly_the_sections_that_dvc_tracks_for_it(stage: str) -> None:
    tracked = set()
    for entry in PIPELINE[stage]["params"]:
        if isinstance(entry, dict):
            (file,) = entry
            group = file.split("/")[1]
            assert entry == {f"conf/{group}/${{{group}}}.yaml": None}, "the whole file of the chosen option"
            tracked.add(group)
        else:
            tracked.add(entry)
    module = __import__(f"stages.{stage}", fromlist=["run"])
    assert tracked == set(signature(module.run).parameters) - {"paths", "report"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_its_name_everywhere(stage: str) -> None:
    assert PIPELINE[stage]["cmd"] == f"python -m stages.{stage}"
    outs = [out if isinstance(out, str) else next(iter(out)) for out in PIPELINE[stage]["outs"]]
    assert {"/".join(out.split("/")[:2]) for out in outs} == {f"artifacts/{stage}"}


@pytest.mark.parametrize("file", [file for file in CODE if file.startswith("thaw/")])
def test_the_library_does_not_import_stages(file: str) -> None:
    assert not [name for name in imports(file) if name.startswith("stages/")]


@pytest.mark.parametrize("file", [file for file in CODE if file.startswith("stages/") and "sweep" not in file])
def test_stages_do_not_import_each_other(file: str) -> None:
    assert not [name for name in imports(file) if name.startswith("stages/")]


def test_only_what_publishes_imports_mlflow() -> None:
    """But for the names of types, which cost nothing."""
    pattern = re.compile(r"(?<!if TYPE_CHECKING:\n)^ *(import|from) mlflow\b", re.MULTILINE)
    found = [file for file in CODE if pattern.search((PROJECT / file).read_text(encoding="utf-8"))]
    assert [file for file in found if place(file) != "thaw/runs"] == ["thaw/models/serving.py"]


def left_to_the_system(code: str) -> list[str]:
    """Where a text is read or written in whatever encoding, or with whatever ends of lines, the system has."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call):
            continue
        is_method = isinstance(node.func, ast.Attribute)
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        owner = getattr(getattr(node.func, "value", None), "id", "")
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        # A mode is the only argument of Path.open, and the second one of open.
        place = 0 if is_method else 1
        modes = [*node.args[place : place + 1], *(value for key, value in given.items() if key == "mode")]
        mode = next((str(one.value) for one in modes if isinstance(one, ast.Constant)), "r")
        is_file = (
            name == "open" and owner not in ("Image", "tarfile", "zipped") and mode in ("r", "w", "a", "x", "r+", "w+")
        )
        is_text = is_method and name in ("read_text", "write_text")  # not the function of thaw.artifacts
        talks = name in ("run", "Popen", "check_output") and {"text", "universal_newlines"} & {*given}
        needed = {"encoding"} if is_file or talks or is_text else set()
        needed |= {"newline"} if (is_text and name == "write_text") or (is_file and mode == "w") else set()
        if (lacking := needed - {*given}) and None not in given:  # None: **keywords
            found.append(f"line {node.lineno}: {name} without {' and '.join(sorted(lacking))}")
    return found


@pytest.mark.parametrize("file", [*CODE, *OTHER_CODE, "tasks.py"])
def test_what_is_written_and_read_has_the_same_bytes_on_every_system(file: str) -> None:
    """Left alone, Python writes other lines on Windows, and other letters in other places."""
    assert left_to_the_system((PROJECT / file).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("line", "is_said"),
    [
        ("path.write_text(text, encoding='utf-8')", True),
        ("path.write_text(text, encoding='utf-8', newline='\\n')", False),
        ("path.open()", True),
        ("path.open('w', encoding='utf-8')", True),
        ("open(path, 'w', encoding='utf-8')", True),
        ("path.open('rb')", False),
        ("open(path, mode='wb')", False),
        ("path.read_text()", True),
        ("write_text(path, text)", False),
        ("Image.open(path)", False),
        ("subprocess.run(command, text=True)", True),
        ("subprocess.run(command, capture_output=True)", False),
    ],
)
def test_so_would_be_found(line: str, is_said: bool) -> None:
    assert bool(left_to_the_system(line)) == is_said


def test_what_is_committed_has_unix_lines_and_no_name_that_some_system_refuses() -> None:
    listed = subprocess.run(["git", "ls-files", "-z", "--eol"], cwd=PROJECT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("needs the project's Git repository, which is not here")
    lines = listed.stdout.decode("utf-8").split("\0")[:-1]
    assert [line for line in lines if line.startswith(("i/crlf", "i/mixed"))] == []
    names = [line.partition("\t")[2] for line in lines]
    assert [name for name in names if re.search(r'[\\:*?"<>|\x00-\x1f]|[. ](/|$)', name)] == []
    assert len({name.casefold() for name in names}) == len(names)


def test_the_lock_is_complete() -> None:
    """It is installed without its dependencies being looked up: what it lacks would be missing."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, encoding="utf-8", check=False
    )
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]
    without = [f" requires {one.partition(';')[0]}," for one in settings["override-dependencies"]]
    lacking = [line for line in done.stdout.splitlines() if not any(one in line for one in without)]
    assert lacking in ([], ["No broken requirements found."])


def test_importing_the_stages_imports_no_heavy_library() -> None:
    script = f"""
import sys
{"; ".join(f"import stages.{stage}" for stage in STAGES)}
print(*sorted({{"tensorflow", "keras", "mlflow", "sklearn", "openvino"}} & set(sys.modules)))
"""
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert found.stdout.split() == []
