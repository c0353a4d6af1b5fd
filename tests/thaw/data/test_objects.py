"""Shards in a store: the same as at hand, read by ranges, and never copied."""

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import options, pictures, servers, tars
from tests.helpers.servers import Bucket
from thaw.artifacts import PROJECT
from thaw.config.schema import Augment, Backbone, Dataset
from thaw.data import images, indexing, mirrors, objects, shards, sources
from thaw.data.layouts import Options
from thaw.errors import UserError
from thaw.networks import features, views

DATASET = Dataset(val=0.2, test=0.2, min_images=1, max_megapixels=1.0)
TARS = ["shard-000000.tar", "shard-000001.tar"]


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Nothing is in memory, as in a new process."""
    objects._blocks.clear()
    yield
    objects._blocks.clear()


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Two shards at hand."""
    return tars.shards(pictures.fill(tmp_path / "folder", {"a": 12, "b": 12}), tmp_path / "packed")


@pytest.fixture
def there(packed: Path, bucket: Bucket) -> str:
    """The same in a store."""
    return bucket.put(packed, "some/prefix")


@pytest.fixture
def data(tmp_path: Path, there: str) -> Path:
    """What is brought of it."""
    return brought(there, tmp_path / "data")


def brought(url: str, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    sources.write_images(url, target, Options())
    objects._blocks.clear()
    return target


def one_object(file: Path) -> objects.Object:
    (found,) = objects.below(f"file://{file}").values()
    return found


# The same as at hand.


def test_nothing_is_copied_and_no_credentials_are_kept(data: Path) -> None:
    assert sorted(path.name for path in data.iterdir()) == TARS
    assert all(path.read_bytes().startswith(b'{"tar": {"url": "s3://') for path in data.iterdir())
    assert not any(secret in path.read_text() for path in data.iterdir() for secret in ("somebody", "a secret", "http"))


def test_the_manifest_is_the_same(data: Path, packed: Path) -> None:
    assert indexing.build(data, DATASET, 0) == indexing.build(packed, DATASET, 0)


@pytest.mark.slow
def test_features_are_the_same_bytes(toy: Backbone, tmp_path: Path, data: Path, packed: Path) -> None:
    plain, seen = toy.model_copy(update={"engine": "tensorflow"}), []
    records = indexing.build(packed, DATASET, 0).records
    for place in (data, packed):
        some = views.of(records, Augment.model_validate(options.AUGMENT), 0)
        features.extract(plain, some, place, tmp_path / "out.npy")
        seen.append((tmp_path / "out.npy").read_bytes())
        shutil.rmtree(tmp_path / "cache" / "features")
    assert seen[0] == seen[1]


def test_what_is_wrong_with_a_shard_is_said_as_of_one_at_hand(tmp_path: Path, packed: Path, bucket: Bucket) -> None:
    file = packed / TARS[0]
    file.write_bytes(file.read_bytes()[: 5 * 1024 + 600])
    (packed / "more.tar.gz").write_bytes(b"")
    with (packed / TARS[1]).open("rb") as whole:
        (packed / "shard-000002.tar").write_bytes(b"\x1f\x8b" + whole.read(2000))
    data = tmp_path / "data"
    found = sources.write_images(bucket.put(packed, "broken"), data, Options())
    there = indexing.scan(packed)
    assert (found.entries, found.refused) == (there.entries, there.refused)
    assert {one.path for one in found.refused} == {TARS[0], "shard-000002.tar", "more.tar.gz"}


def test_tables_beside_shards_come_along_and_other_files_are_counted(
    tmp_path: Path, packed: Path, bucket: Bucket
) -> None:
    rows = [f"{tar}/{name},{index % 2}" for tar in TARS for index, name in enumerate(tars.names(packed / tar))]
    (packed / "labels.csv").write_text("path,label\n" + "\n".join(rows), encoding="utf-8")
    pictures.save(packed / "loose" / "1.png")
    found = sources.write_images(bucket.put(packed, "x"), tmp_path / "data", Options())
    assert {entry.label for entry in found.entries} == {"0", "1"}
    assert found.notes[0] == (
        f"shards that stay in {bucket.url}/x: 2 (0.0 GB); files that are in no shard, and not used: 1"
    )
    (packed / "loose" / "1.png").unlink()
    assert indexing.build(tmp_path / "data", DATASET, 0).records == indexing.build(packed, DATASET, 0).records


def test_one_shard_may_be_named_itself(tmp_path: Path, there: str) -> None:
    sources.write_images(f"{there}/{TARS[1]}", tmp_path / "data", Options())
    assert [path.name for path in (tmp_path / "data").iterdir()] == [TARS[1]]


@pytest.mark.parametrize("name", [f"{TARS[0]}/{TARS[1]}", "../a.tar", "line\n.tar", "a//b.tar", "a\\b.tar", "/a.tar"])
def test_a_name_that_is_no_path_is_left_out(name: str) -> None:
    assert not mirrors._is_sound(name)
    assert mirrors._is_sound("a/b c.tar")


# Reading.


@given(
    size=st.integers(0, 700),
    wanted=st.lists(st.tuples(st.integers(0, 800), st.integers(0, 800)), max_size=12),
    kept=st.integers(1, 6),
)
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_those_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, size: int, wanted: list[tuple[int, int]], kept: int
) -> None:
    file = tmp_path_factory.mktemp("store") / "object"
    file.write_bytes(content := bytes(number * 7 % 251 for number in range(size)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "BLOCK", 64)
        patch.setattr(objects, "KEPT", kept)
        objects._blocks.clear()
        source = one_object(file)
        with ThreadPoolExecutor(4) as pool:
            found = [*pool.map(lambda one: objects.read(source, *one), wanted)]
        assert found == [content[start : start + length] for start, length in wanted]
        assert len(objects._blocks) <= kept


def test_blocks_are_fetched_once_and_ahead(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight threads read 40 images of 30 kB each, in their order: a request for each 100 kB, one for the state."""
    monkeypatch.setattr(objects, "BLOCK", 100_000)
    members = {f"{number:02}.bin": bytes([number]) * 30_000 for number in range(40)}
    tars.save(tmp_path / "packed" / TARS[0], members)
    ((_, source),) = objects.below(bucket.put(tmp_path / "packed", "x")).items()
    (tmp_path / TARS[0]).write_text(shards.stand_in(source), encoding="utf-8")
    objects._blocks.clear()
    before = Counter(bucket.requests("GET"))
    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(lambda name: shards.content(tmp_path / TARS[0], name), members)]
    assert found == [*members.values()]
    assert Counter(bucket.requests("GET")) - before == {f"x/{TARS[0]}": -(-source.bytes // 100_000)}


def test_large_members_are_passed_over_for_the_headers(bucket: Bucket, tmp_path: Path) -> None:
    """Of three images of ten blocks each, the blocks with headers are fetched, and that at the end."""
    tars.save(tmp_path / "packed" / TARS[0], {f"{number}.bin": bytes(10 * objects.BLOCK) for number in range(3)})
    ((_, source),) = objects.below(bucket.put(tmp_path / "packed", "x")).items()
    (tmp_path / TARS[0]).write_text(shards.stand_in(source), encoding="utf-8")
    assert len(bucket.requests("GET")) <= 8


def test_headers_are_read_once_for_all(data: Path, there: str, tmp_path: Path, bucket: Bucket) -> None:
    before = len(bucket.requests("GET"))
    indexing.scan(data)
    assert (brought(there, tmp_path / "again") / TARS[0]).read_bytes() == (data / TARS[0]).read_bytes()
    assert len(bucket.requests("GET")) == before


def test_a_fault_that_passes_leaves_nothing_behind(tmp_path: Path) -> None:
    (file := tmp_path / "object").write_bytes(b"content")
    source = one_object(file)
    file.rename(tmp_path / "away")
    with pytest.raises(UserError, match=r"expected to read file://.*/object, found: .*No such file"):
        objects.read(source, 0, 7)
    (tmp_path / "away").rename(file)
    assert objects.read(source, 0, 7) == b"content"


# What is said.


def test_a_shard_that_has_changed_ends_the_stage(data: Path, packed: Path, bucket: Bucket) -> None:
    tars.save(packed / TARS[0], {"a/000.png": b"another"})
    bucket.put(packed, "some/prefix")
    assert indexing.scan(data).entries
    with pytest.raises(UserError, match=r"expected it as get_data has found it \(\d+,\d+ bytes, version \w+\), found "):
        indexing.build(data, DATASET, 0)
    with pytest.raises(UserError, match=r"has changed .*\'python -m stages.get_data folder URL\'"):
        images.load(data / TARS[0] / "a" / "000.png", 32, "crop")


def test_a_shard_that_is_gone_ends_the_stage(data: Path, bucket: Bucket) -> None:
    """Rather than to let its images be refused: the answer would be one on fewer images."""
    import s3fs

    s3fs.S3FileSystem().rm(f"{bucket.url}/some/prefix/{TARS[1]}")
    with pytest.raises(UserError, match=rf"expected to read s3://.*{TARS[1]}, found: "):
        indexing.build(data, DATASET, 0)


def test_a_stand_in_that_is_damaged_is_said(data: Path) -> None:
    file = data / TARS[0]
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="expected what stands for a tar in a store, found it damaged"):
        indexing.scan(data)


def test_a_server_without_range_requests_is_said(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "BLOCK", 1000)
    port = servers.free_port()
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(packed), str(port)]
    with (
        servers.served(command, f"http://127.0.0.1:{port}/", tmp_path / "log"),
        pytest.raises(UserError, match=r"found 20,480; it takes a server that answers range requests"),
    ):
        sources.write_images(f"http://127.0.0.1:{port}/", tmp_path / "data", Options())


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (
            "https://me:secret@localhost/x",
            "expected a URL that is no secret, .* with a password or a query; leave that out",
        ),
        ("https://localhost/x.tar?X-Amz-Signature=secret", "expected a URL that is no secret"),
        ("nothing://x", "expected a store that fsspec knows, found nothing://; correct it"),
    ],
)
def test_a_url_that_cannot_be_kept_or_read_is_said(tmp_path: Path, url: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as raised:
        sources.write_images(url, tmp_path / "data", Options())
    assert "secret@" not in str(raised.value)
    assert "Signature" not in str(raised.value)


def test_a_store_cannot_be_linked_to(there: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--link: expected a folder to link to, found s3://"):
        sources.write_images(there, tmp_path / "data", Options(), link=True)


def test_a_prefix_without_shards_is_said(bucket: Bucket, tmp_path: Path) -> None:
    url = bucket.put(pictures.fill(tmp_path / "folder", {"a": 2, "b": 2}), "x")
    with pytest.raises(UserError, match=r"expected tars below s3://.*/x, which are read there, found a/000.png, "):
        sources.write_images(url, tmp_path / "data", Options())


def look(url: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run the command as from a shell."""
    command = [sys.executable, "-m", "stages.get_data", "folder", url, "--dry-run"]
    return subprocess.run(
        command,
        cwd=PROJECT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def error(url: str, **variables: str) -> str:
    """The one sentence with which it ends, within seconds."""
    begun = time.monotonic()
    done = look(url, **variables)
    assert time.monotonic() - begun < 30
    assert done.returncode == 1, done.stdout
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("error: ")
    return sentence


def test_what_fails_now_and_then_is_asked_for_again(bucket: Bucket, there: str) -> None:
    with servers.unsteady(bucket.endpoint) as endpoint:
        done = look(there, AWS_ENDPOINT_URL=endpoint)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("24 images in 2 classes\n")


def test_a_bucket_that_is_not_there_is_one_sentence(bucket: Bucket) -> None:
    assert "s3://nowhere/x, found: The specified bucket does not exist; check the URL" in error("s3://nowhere/x")
    assert f"{bucket.url}/x, found: nothing there; check the URL" in error(f"{bucket.url}/x")


def test_wrong_credentials_are_one_sentence(bucket: Bucket, there: str) -> None:
    with bucket.guarded():
        assert f"{there}, found: The AWS Access Key Id you provided does not exist" in error(there)
    assert "found: Unable to locate credentials; check" in error(there, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")


def test_no_server_is_one_sentence(bucket: Bucket) -> None:
    nowhere = f"http://127.0.0.1:{servers.free_port()}"
    assert "found: Could not connect to the endpoint URL" in error(f"{bucket.url}/x", AWS_ENDPOINT_URL=nowhere)


def test_without_s3fs_it_is_said_where_it_is(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "s3fs.py").write_text("raise ImportError", encoding="utf-8")
    said = error(f"{bucket.url}/x", PYTHONPATH=str(tmp_path))
    assert "expected what reads s3://, found it not installed; requirements.lock has s3fs: 'python -m pip" in said
