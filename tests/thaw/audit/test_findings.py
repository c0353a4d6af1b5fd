"""What an audit puts together, for the report and for a person."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageOps

from stages import audit
from tests.thaw.audit.test_copies import scene
from thaw.artifacts import Paths, read_json, write_json
from thaw.audit import findings
from thaw.audit.findings import Findings
from thaw.data import corrections, manifest
from thaw.data.corrections import Correction
from thaw.data.manifest import Record, Split
from thaw.evidence.wording import audited

SPLITS: tuple[Split, ...] = ("train", "train", "val", "test")
CLASSES = ["cat", "dog"]
WIDTH = 16


@dataclass
class Data:
    """Pictures of two classes that can be told apart; 0 and 3 are copies across splits, 5 has a wrong label."""

    paths: Paths
    records: list[Record]

    def audit(self, given: Sequence[Correction] = ()) -> Findings:
        return findings.audit(self.paths.data, self.records, CLASSES, self.paths.features, given, 0, ())


@pytest.fixture
def data(tmp_path: Path) -> Data:
    paths, random = Paths(tmp_path / "data", tmp_path / "artifacts"), np.random.default_rng(0)
    records, features = [], random.normal(size=(80, 1, WIDTH)).astype(np.float32)
    for number in range(80):
        label = number % 2
        features[number, 0, label] += 6
        name = CLASSES[1 - label if number == 5 else label]
        path = f"{name}/{number:02}.png"
        records.append(Record(path, name, SPLITS[number % 4], str(number), 192, 192, ""))
        (paths.data / name).mkdir(parents=True, exist_ok=True)
        scene(number).save(paths.data / path)
    ImageOps.mirror(scene(0)).save(paths.data / records[3].path)
    features[3] = features[0] + 0.1 * random.normal(size=(1, WIDTH))
    paths.features.parent.mkdir(parents=True)
    np.save(paths.features, features)
    manifest.write(paths.manifest, records)
    manifest.write(paths.contradictory, [])
    write_json(paths.classes, CLASSES)
    return Data(paths, records)


def test_what_is_wrong_is_found_and_shown_beside_what_it_resembles(data: Data) -> None:
    found = data.audit()
    copy, *others = found.suspects
    assert (copy.kind, copy.path, copy.resembles[0].path) == ("copy", "cat/00.png", "dog/03.png")
    assert copy.why == "The same picture is labelled cat here and dog there: at least one is wrong."
    assert found.links == [Correction("cat/00.png", "same", "dog/03.png")]
    label = next(one for one in others if one.kind == "label" and one.path == "cat/05.png")
    assert label.suggestion == "dog"
    assert {one.label for one in label.resembles} == {"dog"}
    assert label.why.startswith("Models that have not seen it are ")
    figures = found.figures
    assert figures["images"] == 80
    assert [[one["path"] for one in group] for group in figures["copies"]] == [["cat/00.png", "dog/03.png"]]
    assert figures["leaked"] == ["dog/03.png"], "it is a test image, and its copy is in train"
    assert figures["labels"] == sum(one.kind == "label" for one in found.suspects)


@pytest.mark.parametrize(
    "given",
    [
        [Correction("cat/00.png", "different", "dog/03.png"), Correction("dog/03.png", "keep")],
        [Correction("cat/00.png", "keep"), Correction("dog/03.png", "keep")],
    ],
    ids=["told apart", "both are right"],
)
def test_what_a_person_has_judged_is_no_suspect_any_more(data: Data, given: list[Correction]) -> None:
    assert "cat/05.png" in {one.path for one in data.audit(given).suspects}
    found = data.audit([*given, Correction("cat/05.png", "keep")])
    assert not {"cat/00.png", "dog/03.png", "cat/05.png"} & {one.path for one in found.suspects}
    assert found.figures["labels"] == 0


def test_a_verdict_on_labels_hides_no_leak(data: Data) -> None:
    """A copy across splits stays one, whatever is said of either picture's class; told apart, it is none."""
    kept = [Correction("cat/00.png", "keep"), Correction("dog/03.png", "keep")]
    assert data.audit(kept).figures["leaked"] == ["dog/03.png"]
    apart = data.audit([Correction("cat/00.png", "different", "dog/03.png")])
    assert (apart.figures["leaked"], apart.figures["copies"], apart.links) == ([], [], [])


def test_to_put_copies_into_one_split_makes_no_label_right(data: Data) -> None:
    found = data.audit([Correction("cat/00.png", "same", "dog/03.png")])
    assert [one.path for one in found.suspects if one.kind == "copy"] == ["cat/00.png"]
    assert "cat/05.png" in {one.path for one in found.suspects}
    data.records[3] = replace(data.records[3], label="cat")  # of one class, they are asked about once, and no more
    assert [one.path for one in data.audit().suspects if one.kind == "copy"] == ["cat/00.png"]
    linked = data.audit([Correction("cat/00.png", "same", "dog/03.png")])
    assert [one.path for one in linked.suspects if one.kind == "copy"] == []


def test_the_stage_writes_what_the_report_a_person_and_get_data_read(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    audit.run(data.paths, 0)
    folder = data.paths.findings.parent
    assert {file.name for file in folder.iterdir()} == {"config.json", "copies.csv", "findings.json", "review.html"}
    assert corrections.read(folder / "copies.csv") == [Correction("cat/00.png", "same", "dog/03.png")]
    assert read_json(data.paths.findings)["leaked"] == ["dog/03.png"]
    assert "1 group of copies, 1 across splits" in capsys.readouterr().out
    listed = read_json(data.paths.findings)["suspects"]
    copy = next(one for one in listed if one["kind"] == "copy")
    assert (copy["path"], copy["resembles"][0]["path"]) == ("cat/00.png", "dog/03.png")
    assert "cat/05.png" in [one["path"] for one in listed if one["kind"] == "label"]
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    audit.run(data.paths, 0)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_files_that_were_refused_as_identical_and_in_two_classes_are_asked_about(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once for all of them, first of all, with the label of another one suggested."""
    said = (("dog/x.png", "dog", "x"), ("cat/x.png", "cat", "x"), ("cat/y.png", "cat", "y"), ("dog/y.png", "dog", "y"))
    refused = [Record(path, label, "train", sha256, 9, 9, "") for path, label, sha256 in said]
    refused.append(replace(refused[0], path="dog/z.png"))
    manifest.write(data.paths.contradictory, refused)
    audit.run(data.paths, 0)
    assert "audit: 2 pictures in two classes; " in capsys.readouterr().out
    figures = read_json(data.paths.findings)
    one, other = [one for one in figures["suspects"] if one["kind"] == "conflict"]
    assert (figures["conflicts"], figures["suspects"][0], figures["images"]) == (2, one, 80)
    assert (one["path"], one["label"], one["suggestion"], one["split"]) == ("cat/x.png", "cat", "dog", None)
    assert [near["path"] for near in one["resembles"]] == ["dog/x.png", "dog/z.png"]
    assert one["why"] == "Identical files are labelled cat and dog: none of them is used until you say what is right."
    assert (other["path"], [near["path"] for near in other["resembles"]]) == ("cat/y.png", ["dog/y.png"])


def test_a_verdict_on_a_picture_is_one_on_identical_files(data: Data) -> None:
    data.records[7] = replace(data.records[7], sha256=data.records[5].sha256)
    assert "cat/05.png" not in {one.path for one in data.audit([Correction("dog/07.png", "keep")]).suspects}


def test_features_without_pooling_are_mixed_down(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "WIDEST", 8)
    found = data.audit()
    assert found.links == [Correction("cat/00.png", "same", "dog/03.png")]
    monkeypatch.setattr(findings, "WIDEST", 2048)
    features = np.load(data.paths.features)
    np.save(data.paths.features, features.reshape(80, 1, 4, 2, 2))
    assert data.audit().links == [Correction("cat/00.png", "same", "dog/03.png")]


def test_a_picture_that_resembles_no_other_is_found(data: Data) -> None:
    features = np.load(data.paths.features)
    features[:, 0, :2] *= 3  # so all others resemble those of their class
    features[7] = 0
    features[7, 0, 5] = 20
    np.save(data.paths.features, features)
    found = data.audit()
    assert next(one.path for one in found.suspects if one.kind == "outlier") == data.records[7].path


def test_of_very_many_pictures_some_are_looked_at_and_that_is_said(
    data: Data, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(findings, "MOST", 60)
    audit.run(data.paths, 0)
    assert "audit: of 60 pictures, drawn from 80: " in capsys.readouterr().out
    assert "60 pictures" in (data.paths.root / "audit" / "review.html").read_text(encoding="utf-8")
    figures = data.audit().figures
    assert (figures["images"], figures["of"]) == (60, 80)
    assert audited(figures, 0.95)[0] == "60 pictures were looked at, drawn from all 80."
    asked = {one.path for one in sorted(data.records, key=lambda one: one.sha256)[:60]}
    assert {one["path"] for one in figures["suspects"]} <= asked
