"""Bring a data set into data/ and let DVC track it (``python -m stages.get_data digits|folder|csv|flowers``).

- ``digits``: scikit-learn's 1,797 handwritten digits, the sample of ``make repro``;
- ``folder PATH``: your own images, in class folders or in train, val and test folders with class folders inside;
- ``csv FILE``: your own images, listed in a file with the columns path,label and optionally split,group;
- ``flowers``: TensorFlow's flower_photos, downloaded or, with ``--from FILE``, from an archive at hand.

Writes data/ and data.dvc, and in params.yaml what goes with the data. These are built beside data/ and renamed, so
data/ is complete or not there.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from thaw.artifacts import PROJECT
from thaw.data.sources import GOES_WITH, choose, download_flowers, write_archive, write_csv, write_digits, write_folder
from thaw.data.versioning import bring, require_linkable
from thaw.errors import UserError, fail


def main(arguments: Sequence[str] | None = None, root: Path = PROJECT) -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.get_data", description="Bring a data set into data/.")
    commands = parser.add_subparsers(dest="source", required=True)
    commands.add_parser("digits", help="scikit-learn's handwritten digits, the sample")
    from_folder = commands.add_parser(
        "folder", help="class folders, or train/val/test folders with class folders inside"
    )
    from_folder.add_argument("path", type=Path)
    from_folder.add_argument("--link", action="store_true", help="let DVC read your files in place: one copy fewer")
    from_csv = commands.add_parser("csv", help="a CSV file with the columns path,label[,split][,group]")
    from_csv.add_argument("file", type=Path)
    from_flowers = commands.add_parser("flowers", help="TensorFlow's flower_photos: 3,670 photos in five classes")
    from_flowers.add_argument("--from", dest="archive", type=Path, help="a tar archive at hand instead of the download")
    for command in commands.choices.values():
        command.add_argument("--force", action="store_true", help="replace also what could not be brought back")
    given = parser.parse_args(arguments)
    try:
        match given.source:
            case "digits":
                bring(root, write_digits, force=given.force, quick=True)
            case "folder":
                if given.link:
                    require_linkable(root)
                bring(root, lambda target: write_folder(given.path, target, link=given.link), force=given.force)
            case "csv":
                bring(root, lambda target: write_csv(given.file, target), force=given.force)
            case "flowers":
                bring(
                    root, lambda target: write_archive(given.archive or download_flowers(), target), force=given.force
                )
        if changed := choose(root, given.source if given.source in GOES_WITH else "folder"):
            print(changed)
    except UserError as error:
        fail(error)
    print("Next: make repro")


if __name__ == "__main__":
    main()
