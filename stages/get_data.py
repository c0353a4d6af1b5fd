"""Bring a data set into data/ and let DVC track it (``python -m stages.get_data digits|folder|flowers|correct``).

- ``digits``: scikit-learn's 1,797 handwritten digits, the sample of ``make repro``;
- ``folder PATH``: your own images, in folders, an archive or listed in a table (docs/data.md says what is understood),
  or in shards which stay in a store (``folder s3://bucket/prefix``);
- ``flowers``: TensorFlow's flower_photos, downloaded or, with ``--from FILE``, from an archive at hand;
- ``correct FILE``: none, but corrections of the one that is there (docs/data.md); ``--undo`` takes all of them back.

Writes data/ and data.dvc, and in params.yaml what goes with the data. These are built beside data/ and renamed, so
data/ is complete or not there.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from thaw.artifacts import PROJECT
from thaw.data.layouts import Classes, Layout, Options, described
from thaw.data.sources import GOES_WITH, choose, download_flowers, look, write_digits, write_images
from thaw.data.versioning import bring, correct, require_linkable, take_back
from thaw.errors import UserError, fail


def main(arguments: Sequence[str] | None = None, root: Path = PROJECT) -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.get_data", description="Bring a data set into data/.")
    commands = parser.add_subparsers(dest="source", required=True)
    commands.add_parser("digits", help="scikit-learn's handwritten digits, the sample")
    images = commands.add_parser("folder", help="your images: a folder, an archive, a table of them or s3://…")
    images.add_argument("path", metavar="PATH|URL")
    images.add_argument(
        "--classes", choices=get_args(Classes), default="outermost", help="where class folders hold folders"
    )
    images.add_argument("--label-from", metavar="REGEX", help="find the class in a file's path: '([a-z]+)_'")
    images.add_argument("--path-column", metavar="NAME", help="of a table")
    images.add_argument("--label-column", metavar="NAME", help="of a table")
    images.add_argument("--root", type=Path, help="where a table's paths start, if not in its folder")
    images.add_argument("--dry-run", action="store_true", help="say what is understood, and copy nothing")
    images.add_argument(
        "--shards", action=argparse.BooleanOptionalAction, help="pack images into tars, as with more than 100,000"
    )
    images.add_argument("--link", action="store_true", help="let DVC read your files in place: one copy fewer")
    from_flowers = commands.add_parser("flowers", help="TensorFlow's flower_photos: 3,670 photos in five classes")
    from_flowers.add_argument("--from", dest="archive", type=Path, help="a tar archive at hand instead of the download")
    for command in commands.choices.values():
        command.add_argument("--force", action="store_true", help="replace also what could not be brought back")
    corrected = commands.add_parser("correct", help="apply corrections to data/: labels, copies, what does not belong")
    what = corrected.add_mutually_exclusive_group(required=True)
    what.add_argument("file", type=Path, nargs="?", help="corrections.csv, as the page saves it: path,action,value")
    what.add_argument("--undo", action="store_true", help="take all corrections back")
    given, picture = parser.parse_args(arguments), root / "artifacts" / "contact_sheet.png"
    try:
        match given.source:
            case "digits":
                bring(root, write_digits, force=given.force, quick=True)
            case "folder":
                options = Options(given.classes, given.label_from, given.path_column, given.label_column, given.root)
                if given.dry_run:
                    say(look(given.path, options, picture), picture)
                    return
                if given.link:
                    require_linkable(root)
                how = {"link": given.link, "packed": given.shards}
                bring(
                    root,
                    lambda target: say(write_images(given.path, target, options, picture, **how), picture),
                    force=given.force,
                )
            case "flowers":
                archive = given.archive or download_flowers()
                bring(root, lambda at: say(write_images(archive, at, Options(), picture), picture), force=given.force)
            case "correct":
                print(take_back(root) if given.undo else correct(root, given.file.expanduser()))
        option = given.source if given.source in GOES_WITH else "folder"
        if given.source != "correct" and (changed := choose(root, option)):
            print(changed)
    except UserError as error:
        fail(error)
    print("Next: make repro")


def say(layout: Layout, picture: Path) -> None:
    """Say what was understood, and where it can be looked at."""
    print("\n".join([*described(layout), f"  some of each class: {picture.parent.name}/{picture.name}"]))


if __name__ == "__main__":
    main()
