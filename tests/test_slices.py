"""A table with cameras and bursts, from get_data to the report, in a project with real DVC."""

import csv
from pathlib import Path

import pytest

from tests.helpers.project import repository, squares
from thaw.artifacts import read_json
from thaw.data import manifest


@pytest.mark.slow
def test_columns_and_groups_of_a_table_go_all_the_way(tmp_path: Path) -> None:
    project = repository(tmp_path / "project", MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db")
    photos = squares(tmp_path / "photos", per_class=60)
    files = sorted(photos.rglob("*.png"))
    with (photos / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "colour", "camera", "taken", "burst", "group"])
        for number, one in enumerate(files):
            day = f"{2019 + number % 3}-{1 + number % 12:02}-{1 + number % 27:02}"
            camera = ("Canon", "Nikon", "")[number // 3 % 3]
            path = one.relative_to(photos).as_posix()
            rows.writerow([path, one.parent.name, camera, day, f"b{number // 3}", f"{number // 3}"])
    done = project.stage("get_data", "folder", str(photos), "--label-column", "colour")
    assert done.returncode == 0, done.stdout + done.stderr
    said = "slices: by camera: 3, by taken (year): 3"
    assert said in done.stdout
    assert "columns that are left out: burst" in done.stdout
    output = project.dvc("repro")
    assert said in output
    test = [record for record in manifest.read(project.paths.manifest) if record.split == "test"]
    groups = len({record.group for record in test})
    assert len(test) == 3 * groups
    assert f"{len(test)} test images in {groups} groups" in output
    figures = read_json(project.paths.figures)
    assert figures["n_groups"] == groups
    assert {row["column"] for row in figures["slices"]} == {"camera", "taken (year)"}
    for column in ("camera", "taken (year)"):
        assert sum(row["images"] for row in figures["slices"] if row["column"] == column) == len(test)
    assert "Slice by slice" in project.paths.report.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_table_beside_class_folders_is_tracked_with_them(tmp_path: Path) -> None:
    project = repository(tmp_path / "project")
    photos = squares(tmp_path / "photos", per_class=20)
    files = sorted(photos.rglob("*.png"))
    lines = [
        f"{one.relative_to(photos).as_posix()};{('Canon', 'Nikon')[number % 2]}\n" for number, one in enumerate(files)
    ]
    (photos / "metadata.csv").write_text("".join(["image;camera\n", *lines]), encoding="utf-8")
    assert "slices: by camera: 2" in project.stage("get_data", "folder", str(photos)).stdout
    (project.root / "data" / "metadata.csv").unlink()
    project.dvc("checkout", "data.dvc")
    assert "slices: by camera: 2" in project.dvc("repro", "prepare")
    assert {record.metadata["camera"] for record in manifest.read(project.paths.manifest)} == {"Canon", "Nikon"}
