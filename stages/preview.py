"""Show what augmentation does to your own images, class by class: are they still what their label says?

Reads data/ and artifacts/prepare/; writes artifacts/preview.png: for some images of each class the image as it is, and
augmented views of it, in exactly the pixels that the network is given. No stage of the pipeline: run it when you like.

    python -m stages.preview
    python -m stages.preview augment=strong
"""

from pathlib import Path

import numpy as np
from PIL import Image

from thaw import parallel
from thaw.artifacts import Paths, atomic, read_json
from thaw.config.composing import command
from thaw.config.schema import Augment, Backbone
from thaw.data import manifest, sheets
from thaw.errors import UserError
from thaw.networks import views
from thaw.networks.views import View

CLASSES, ROWS, COLUMNS = 12, 2, 9  # at most so many classes, images of each, and pictures beside each other


def run(paths: Paths, backbone: Backbone, augment: Augment, seed: int) -> None:
    """Draw the contact sheet.

    Raises:
        UserError: the configuration makes no augmented views.
    """
    if not augment.views:
        raise UserError(
            "expected an option of augment that makes views, found 'views: 0'; "
            "try 'python -m stages.preview augment=standard'"
        )
    records, classes = manifest.read(paths.manifest), read_json(paths.classes)
    shown = [
        [row for row, one in enumerate(records) if one.split == "train" and one.label == name][:ROWS]
        for name in classes[:CLASSES]
    ]
    everything = views.of(records, augment, seed)  # all: some options mix an image with any other
    rows = [everything[row] for of_class in shown for row in of_class]
    drawn = [view for row in rows for view in row[:COLUMNS]]
    side = backbone.input_size
    pictures = parallel.shown(lambda view: View.load(view, paths.data, side, backbone.fit), drawn, "preview")
    values = (f"{key} {value}" for key, value in augment.model_dump().items() if value not in (0, "none"))
    made = iter(Image.fromarray(np.asarray(picture)) for picture in pictures)
    laid_out = [(row[0].record.label, [next(made) for _ in row[:COLUMNS]]) for row in rows]
    sheet = sheets.sheet(laid_out, side, f"First column: the image as it is. The others: {', '.join(values)}.")
    file: Path = paths.root / "preview.png"
    with atomic(file) as unfinished:
        sheet.save(unfinished, format="PNG")
    print(f"preview: {len(rows)} images and {len(drawn) - len(rows)} augmented views of them in {file}")


if __name__ == "__main__":
    command(run)
