"""The manifest as a file: it comes back as it was, and what many images say is in memory once."""

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thaw.data import manifest
from thaw.data.manifest import Record

# Whatever files, classes and groups may be called: prepare takes none with control characters or lone surrogates.
TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs"]))


@st.composite
def records(draw: st.DrawFn) -> list[Record]:
    """Any records, whose metadata have the same columns."""
    columns = draw(st.lists(TEXTS, max_size=2, unique=True))
    splits, sizes = st.sampled_from(["train", "val", "test"]), st.integers(1, 10**6)
    metadata = st.fixed_dictionaries(dict.fromkeys(columns, TEXTS))
    record = st.builds(Record, TEXTS, TEXTS, splits, TEXTS, sizes, sizes, TEXTS, metadata)
    return draw(st.lists(record, max_size=4))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(records())
def test_what_is_written_comes_back(tmp_path: Path, written: list[Record]) -> None:
    manifest.write(tmp_path / "manifest.csv", written)
    assert manifest.read(tmp_path / "manifest.csv") == written


def test_what_many_images_say_is_in_memory_once(tmp_path: Path) -> None:
    """Of a million images, that is 300 MB instead of up to a gigabyte."""
    said = {"camera": "Canon", "site": "b"}
    written = [Record(f"{n}.jpg", "a cat", "train", str(n), 5000, 4000, "of 3", dict(said)) for n in range(2)]
    manifest.write(tmp_path / "manifest.csv", written)
    first, second = manifest.read(tmp_path / "manifest.csv")
    for name in ("label", "split", "width", "height", "group", "metadata"):
        assert getattr(first, name) is getattr(second, name), name
