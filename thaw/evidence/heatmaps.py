"""Where the models look: pictures in grey, and in colour what speaks for the true class, and what for another one."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from thaw import parallel
from thaw.data import images
from thaw.data.images import Unusable
from thaw.evidence.story import Story
from thaw.networks.activation import Mapped, Unmapped
from thaw.networks.outputs import Floats

SIDE = 128  # pixels of the longer side
RIGHT, WRONG = (23, 105, 194), (192, 57, 43)
DENSEST = 0.75  # the share of the colour where it is strongest
PALE = 0.45  # the share of white in the grey picture, for colours to be seen on what is dark
STRONG = 0.95  # so many of all places have less than the strongest colour


@dataclass(frozen=True)
class Heat:
    """What one model finds in one picture.

    Attributes:
        source: the picture with its colours, as a data URI.
        other: the class that the true one is weighed against.
        places: how many the network tells apart: height and width.
    """

    source: str
    other: str
    places: tuple[int, ...]


def look(story: Story, rows: Sequence[int]) -> dict[int, list[Heat]]:
    """Ask what, in test images that are not right both before and after, speaks for the true class and for another one.

    That is the one that the model takes the image for; where it is right, the one that the other model does.

    Args:
        story: what is told.
        rows: of the test images, in the order of ``story.test``.

    Returns:
        What each model finds, by row; nothing where there is no picture any more, or a network has no maps.
    """
    size, fit = (story.config["backbone"][key] for key in ("input_size", "fit"))

    def opened(row: int) -> tuple[Image.Image, NDArray[np.uint8]] | None:
        try:
            picture = images.decode(story.data / story.paths[row], at_least=2 * size)
        except Unusable:
            return None
        square = images.square(picture, size, fit)
        picture.thumbnail((SIDE, SIDE))
        return picture, square

    pictures = {row: both for row, both in zip(rows, parallel.ahead(opened, rows), strict=True) if both}
    if not pictures:
        return {}
    asked, true = [*pictures], story.test.labels[[*pictures]]
    answers = [model[asked].argmax(1) for model in (story.test.before, story.test.after)]
    others = [np.where(own == true, another, own) for own, another in (answers, answers[::-1])]
    one_hot = np.eye(len(story.classes), dtype=np.float32)
    found: dict[int, list[Heat]] = {row: [] for row in asked}
    for (network, head), other in zip(story.networks, others, strict=False):
        try:
            mapped = Mapped(network, head)
        except Unmapped:
            return {}
        maps = np.stack([*mapped.maps([square for _, square in pictures.values()], one_hot[true] - one_hot[other])])
        strongest = np.quantile(np.abs(maps), STRONG) or 1.0
        for row, heat, name in zip(asked, maps / strongest, other, strict=True):
            drawn = draw(pictures[row][0], heat, fit)
            found[row].append(Heat(_data_uri(drawn), story.classes[name], mapped.places))
    return found


def draw(picture: Image.Image, heat: Floats, fit: str) -> Image.Image:
    """Lay a heat map (height × width; 1 is strongest for, −1 against) over a picture, where the network has seen it.

    Args:
        picture: upright, of any size; what is as small as pixel art is enlarged.
        heat: the map, of the square that ``images.square`` makes.
        fit: how it does.
    """
    if max(picture.size) <= images.PIXEL_ART:
        times = SIDE // max(picture.size)
        picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    width, height = picture.size if fit == "stretch" else 2 * (min(picture.size),)
    smooth = Image.fromarray(heat.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    whole = Image.new("F", picture.size)  # 0: what is cropped away speaks for nothing
    whole.paste(smooth, ((picture.width - width) // 2, (picture.height - height) // 2))
    values = np.asarray(whole)[..., np.newaxis]
    share = DENSEST * np.minimum(np.abs(values), 1)
    grey = 255 * PALE + (1 - PALE) * np.asarray(picture.convert("L"), np.float32)[..., np.newaxis]
    colours = np.where(values > 0, np.array(RIGHT, np.float32), np.array(WRONG, np.float32))
    return Image.fromarray((share * colours + (1 - share) * grey).round().astype(np.uint8))


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "jpeg", quality=70)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
