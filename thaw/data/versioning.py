"""The project's data/ under DVC: replaced as a whole, and never lost.

New data are built beside data/ and renamed, so data/ is complete or not there. What Git and DVC can bring back is
replaced without being asked; for anything else it takes ``force``, which keeps it under another name.
"""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import yaml

from thaw.artifacts import Paths, rename
from thaw.config.wording import nearest
from thaw.data import corrections, manifest, shards
from thaw.data.corrections import Correction
from thaw.data.files import is_corrections
from thaw.data.indexing import scan
from thaw.data.layouts import CORRECTIONS, few
from thaw.errors import UserError

MEMBER = f"{shards.SUFFIX}/"  # stands in the path of an image in a shard


def bring(root: Path, write: Callable[[Path], None], *, force: bool, quick: bool = False) -> None:
    """Make the data that ``write`` puts into a new folder the project's data/, and track them with DVC.

    Args:
        root: the project's root, where DVC has been initialised.
        write: is given a folder that does not exist yet.
        force: replace also what DVC and Git could not bring back: it is renamed to data.backup.
        quick: ``write`` takes no time, so it may run only to find that data/ holds the same already.

    Raises:
        UserError: the project is not under DVC, or other data would be lost, or ``write`` cannot do it.
    """
    _require_dvc(root)
    data, partial = root / "data", root / ".data.partial"
    occupied = data.is_symlink() or (data.exists() and (not data.is_dir() or any(data.iterdir())))
    present, tracked = fingerprint(data) if occupied else None, tracked_fingerprint(root)
    way_back = "" if present is None and tracked is None else _way_back(root, data, present, tracked)
    if present is None and way_back and quick and not force:
        way_back = None  # nobody need have asked for the sample: 'make repro' brings it where there are no data
    if occupied and way_back is None and not force and not quick:
        raise _lost(data, occupied)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        write(partial)
        new = fingerprint(partial)
        if present == new:
            print(f"{data} holds these data already")
            if tracked == new:
                return
        elif way_back is None and not force and (occupied or tracked != new):
            raise _lost(data, occupied)
        else:
            if is_corrections(data / CORRECTIONS) and not is_corrections(partial / CORRECTIONS):
                print("the corrections of the former data are not in these: 'get_data correct FILE' applies them again")
            if occupied:
                _clear(root, data, way_back)
            elif data.exists():
                data.rmdir()
            rename(partial, data)
            if way_back and tracked != new:
                print(way_back)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _dvc_add(root)
    print(f"{sum(len(names) for *_, names in os.walk(data)):,} files in {data}, tracked by data.dvc")


def correct(root: Path, file: Path) -> str:
    """Add corrections to those of the project's data, and track them with DVC; no image is touched.

    Args:
        root: the project's root, where DVC has been initialised.
        file: of corrections, as ``corrections.read`` reads it.

    Returns:
        What was done, in a few lines.

    Raises:
        UserError: there are no data to correct, or the file is none of corrections, or names images that never were.
    """
    kept = _correctable(root)
    old = corrections.meant(kept, lambda path: shards.is_file(kept.parent / path)) if kept.exists() else []
    layout, paths = scan(kept.parent), Paths(root / "data", root / "artifacts")
    there = {*(one.path for one in layout.entries), *(one.path for one in layout.refused)}
    known = there | {path for one in old for path in one.paths}
    for indexed in (paths.manifest, paths.contradictory):
        if indexed.exists():  # what was there when a person looked at it
            known |= {record.path for record in manifest.read(indexed)}
    new = _renumbered(corrections.meant(file, known.__contains__), there)
    for path in (path for one in new for path in one.paths):
        if path not in known:
            near = nearest(path, sorted(there))
            raise UserError(f"{file}: expected the paths of images in {kept.parent}, found {path!r}{near}; correct it")
    usable = [one for one in new if there.issuperset(one.paths)]
    merged = corrections.merge(old, usable)
    _release(kept)
    corrections.write(kept, merged)
    _dvc_add(root)
    what = f"{len(usable)} correction{'' if len(usable) == 1 else 's'}"
    lines = [f"{what}: {corrections.counted(usable)}; data/{CORRECTIONS} has {len(merged)} now"]
    if gone := sorted({path for one in new for path in one.paths} - there):
        lines.append(f"  left out, as the data have no such file any more: {few(gone)}")
    labels = {entry.label for entry in layout.entries} | {one.value for one in old if one.action == "relabel"}
    return "\n".join([*lines, *(f"  {line}" for line in corrections.anew(usable, labels))])


def _renumbered(given: Sequence[Correction], there: Collection[str]) -> list[Correction]:
    """Say of an image where it lies now, if it has been packed, or if its shard has got another number, since."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in there:
        if MEMBER in path:
            places[path.partition(MEMBER)[2]].append(path)

    def now(path: str) -> str:
        found = [] if path in there else places.get(path.rpartition(MEMBER)[2], [])
        return found[0] if len(found) == 1 else path

    return [one.about([now(path) for path in one.paths]) for one in given]


def take_back(root: Path) -> str:
    """Take all corrections of the project's data back, and let DVC track the data without them; say what was done.

    Raises:
        UserError: there are no data.
    """
    kept = _correctable(root)
    if not kept.exists():
        return "there are no corrections to take back"
    _release(kept)
    kept.unlink()
    _dvc_add(root)
    return f"all corrections are taken back: there is no data/{CORRECTIONS} any more"


def _correctable(root: Path) -> Path:
    """Return the file of the project's corrections, which need not be there, if there are data that they can be of."""
    _require_dvc(root)
    data = root / "data"
    if data.is_symlink():
        raise UserError(
            f"expected a folder at {data}, found a link to one, which other projects may use; bring the images in with "
            "'python -m stages.get_data folder PATH'"
        )
    if not data.is_dir():
        raise UserError(f"expected data in {data}, found none; bring some, or 'dvc checkout data.dvc' what was there")
    return data / CORRECTIONS


def _release(file: Path) -> None:
    """Let a file be replaced or removed. DVC makes read-only what it links to, and Windows then refuses both."""
    if os.name == "nt" and file.exists():
        file.chmod(stat.S_IWRITE)


def _require_dvc(root: Path) -> None:
    if not (root / ".dvc").is_dir():
        raise UserError(f"expected a DVC project in {root}, found no .dvc folder; run 'dvc init' there first")


def _lost(data: Path, occupied: bool) -> UserError:
    if occupied:
        return UserError(
            f"expected no data in {data}, or such as Git and DVC can bring back, found others; run 'dvc add data' and "
            "commit data.dvc to keep them there, or add --force, which moves them to data.backup"
        )
    return UserError(
        "expected no data.dvc, or such as can be brought back, found one that tracks other data, which are not in "
        f"{data}; 'dvc pull' or 'dvc checkout data.dvc' brings them, --force gives them up"
    )


def _way_back(root: Path, data: Path, present: str | None, tracked: str | None) -> str | None:
    """Say how the data that are there now can be brought back; None if they cannot."""
    committed = _run(root, ["git", "show", "HEAD:./data.dvc"])
    file = root / "data.dvc"
    known = file.exists() and committed.returncode == 0 and committed.stdout == file.read_text(encoding="utf-8")
    if not known or data.is_symlink() or present not in (None, tracked):
        return None
    if present is None:
        return "data.dvc was that of other data: 'git checkout data.dvc' goes back to it"
    return "the former data are in DVC's cache: 'git checkout data.dvc && dvc checkout data.dvc' brings them back"


def fingerprint(folder: Path) -> str:
    """Compute the hash by which data.dvc would know ``folder``: DVC's own, so that no DVC is needed to compare."""
    files = []
    for relative in sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()):
        with (folder / relative).open("rb") as file:
            files.append({"md5": hashlib.file_digest(file, "md5").hexdigest(), "relpath": relative})
    return hashlib.md5(json.dumps(files, sort_keys=True).encode()).hexdigest() + ".dir"


def tracked_fingerprint(root: Path) -> str | None:
    """Read the hash in data.dvc; none if there is no such file."""
    file = root / "data.dvc"
    if not file.exists():
        return None
    try:
        output = yaml.safe_load(file.read_text(encoding="utf-8"))["outs"][0]
        return str(output[output["hash"]])
    except (yaml.YAMLError, KeyError, IndexError, TypeError, UnicodeDecodeError):
        raise UserError(f"expected {file} as 'dvc add' writes it, found something else; restore or remove it") from None


def require_linkable(root: Path) -> None:
    """Refuse ``--link`` where DVC would make the user's originals part of its cache.

    ``dvc add`` reads linked files in place and then puts files of its own into data/, as its ``cache.type`` says. Only
    with ``cache.type hardlink`` does the cache become another name of the original, which DVC then makes read-only.
    """
    types = _dvc(root, "config", "cache.type").stdout
    if types.lstrip("[' ").startswith("hardlink"):  # the first of several counts; a list is printed as Python writes it
        raise UserError(
            "expected a DVC cache of its own for --link, found cache.type hardlink, with which DVC would make your "
            "original files read-only; leave out --link"
        )


def _clear(root: Path, data: Path, way_back: str | None) -> None:
    """Make room for new data: delete the old if there is a way back to them, else rename them."""
    if way_back:
        _dvc_add(root)  # changes nothing, but completes DVC's cache if a file had been lost there
        shutil.rmtree(data)
        return
    number = 1
    while os.path.lexists(backup := root / f"data.backup{f'-{number}' if number > 1 else ''}"):
        number += 1
    data.rename(backup)
    print(f"the old data are in {backup} now")


def _dvc_add(root: Path) -> None:
    added = _dvc(root, "add", "--quiet", "data")
    if added.returncode:
        reason = " ".join(added.stderr.split()).removeprefix("ERROR: ")
        raise UserError(
            f"expected 'dvc add data' to track {root / 'data'}, found: {reason}; the data are complete: "
            "mend the cause, then run 'dvc add data'"
        )


def _dvc(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return _run(root, [sys.executable, "-m", "dvc", *arguments])


def _run(root: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, cwd=root, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False
        )
    except FileNotFoundError:  # no Git on this machine
        return subprocess.CompletedProcess(command, 127, "", f"{command[0]}: not found")
