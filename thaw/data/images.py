"""Pictures as pixels: decode and resize them.

The same file always gives the same pixels, in every process and for any number of threads.
"""

import base64
import io
import math
import stat
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from thaw.data import shards
from thaw.errors import UserError

pillow_heif.register_heif_opener(thumbnails=False)
FORMATS = ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "HEIF", "AVIF", "JPEG2000", "PPM"]
BY_NAME = {".tga": "TGA"}  # which has nothing in it to be known by: any text could be one
_SUFFIXES = "jpg jpeg jpe jfif mpo png bmp dib gif webp tif tiff heic heif avif jp2 j2k jpx ppm pgm pbm pnm tga"
SUFFIXES = frozenset(f".{ending}" for ending in _SUFFIXES.split())
READ = "JPEG, PNG, BMP, GIF, WebP, TIFF, HEIC, AVIF, JPEG 2000, PPM or TGA"
# What other kinds of files are, as people know them, by their endings; and what would turn them into images.
OTHERS = {
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf"), "raw data of a camera (rawpy)"),
    **dict.fromkeys((".dcm", ".dicom"), "DICOM (pydicom)"),
    ".nii": "NIfTI (nibabel)",
    ".svg": "a drawing (cairosvg)",
    ".psd": "Photoshop (psd-tools)",
    ".jxl": "JPEG XL (pillow-jxl-plugin)",
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm"), "a film (ffmpeg)"),
}
THUMBNAIL = 240  # pixels of the longer side, for sharp screens
PIXEL_ART = 64  # pictures up to this size stay as they are and are enlarged without smoothing
DEPTHS = (8, 10, 12, 14, 16, 24, 32)  # bits that cameras and microscopes give a grey value

# What brings a picture with this EXIF orientation upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

SIDEWAYS = {5, 6, 7, 8}  # of these, width and height change places

# Pillow's fixed limit would warn below ours and refuse above its own; decode() has the configured one instead.
Image.MAX_IMAGE_PIXELS = None

# It also warns of odd metadata, at every reading of the file; what matters to the pixels is raised.
warnings.filterwarnings("ignore", module=r"PIL\.")


class Unusable(UserError):  # noqa: N818 (a verdict on a file, not a failure of the program)
    """Why a file is no usable image, on one line: a kind, and often ``: `` and the details."""


def decode(source: Path | BinaryIO, max_pixels: float = math.inf, at_least: int | None = None) -> Image.Image:
    """Decode the first frame of a picture: upright by its EXIF data, in sRGB, transparency on white.

    Grey values of more than 8 bits are scaled by the fewest bits of ``DEPTHS`` that hold the brightest of them, so that
    12 bits in a file of 16 are not black. Floating-point numbers are taken as shares of white if they lie between 0 and
    1, as 0 to 255 if they lie there, and else from their lowest to their highest.

    Args:
        source: a file in one of ``FORMATS``, whatever its name ends in, or a path into a tar (see ``shards``); so it is
            wherever a path of a picture is asked for.
        max_pixels: what the header may announce at most; it is read before any pixel is decoded.
        at_least: lets a JPEG be decoded smaller (by 2, 4 or 8, in its frequency domain, which is much faster) as long
            as both its sides keep this many pixels.

    Raises:
        Unusable: the file is unreadable, empty, no image, too large or damaged.
    """
    return _read(source, max_pixels, at_least)[0]


def measure(path: Path, max_pixels: float = math.inf) -> tuple[int, int]:
    """Decode a picture only to see that it can be, as cheaply as possible; return its upright width and height.

    A JPEG is decoded at an eighth of its size: that reads every byte of it, and leaves out most of the arithmetic.

    Raises:
        Unusable: as ``decode``.
    """
    return _read(path, max_pixels, at_least=1)[1]


def about(path: Path) -> tuple[str, tuple[int, int]]:
    """Return the format of a picture that can be decoded, and its width and height, from its header."""
    with _opened(path) as image:
        return str(image.format), image.size


def length(path: Path) -> int:
    """Return how many bytes the file of a picture has."""
    return shards.size(path)


def camera(path: Path) -> str:
    """Return the camera that a picture's EXIF data name; nothing where they name none."""
    with _opened(path) as image:
        try:
            exif = image.getexif()
        except Exception:  # broken EXIF data, as in ``_orientation``
            return ""
    named = [str(exif.get(tag, "")).strip("\0 ") for tag in (ExifTags.Base.Make, ExifTags.Base.Model)]
    return " ".join(filter(None, named))


def load(path: Path, size: int, fit: str) -> NDArray[np.uint8]:
    """Decode a picture that ``prepare`` accepted and make it a square, see there.

    Raises:
        UserError: the file is not usable any more.
    """
    try:
        image = decode(path, at_least=2 * size)
    except Unusable as error:
        raise UserError(
            f"{path}: expected the image that prepare indexed, found {error}; run 'dvc repro' again"
        ) from None
    return square(image, size, fit)


def square(image: Image.Image, size: int, fit: str) -> NDArray[np.uint8]:
    """Make of a picture what a network is given: size × size × 3, bilinear, antialiased.

    Args:
        image: of any size.
        size: pixels of a side.
        fit: what becomes of one that is no square: ``crop`` takes the middle, ``stretch`` all of it, distorted.
    """
    side, whole = min(image.size), fit == "stretch"
    left, top = (0.0 if whole else (length - side) / 2 for length in image.size)
    box = (left, top, image.width - left, image.height - top)
    return np.array(image.resize((size, size), Image.Resampling.BILINEAR, box))


def thumbnail(path: Path, side: int = THUMBNAIL) -> tuple[str, bool]:
    """Return a small copy of a picture as a data URI, and whether it is so small that its pixels are to be seen.

    Its longer side has at most ``side`` pixels.

    A picture that has gone since ``prepare`` accepted it gives an empty one: it is no reason to lose a page.
    """
    try:
        small = decode(path, at_least=side)
    except Unusable:
        return "", False
    is_tiny = max(small.size) <= PIXEL_ART
    small.thumbnail((side, side))
    kind, buffer = "png" if is_tiny else "jpeg", io.BytesIO()
    small.save(buffer, kind, quality=80)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}", is_tiny


def _read(source: Path | BinaryIO, max_pixels: float, at_least: int | None) -> tuple[Image.Image, tuple[int, int]]:
    """Do as ``decode`` says; also return the upright width and height that the picture has by itself."""
    try:
        with _opened(source) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise Unusable(
                    f"too large: {width} x {height} pixels, at most {max_pixels / 1e6:g} megapixels are allowed"
                )
            if at_least:
                image.draft(None, (at_least, at_least))
            image.load()
            orientation = _orientation(image)
            upright = image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image
            return _rgb(upright), (height, width) if orientation in SIDEWAYS else (width, height)
    except UserError:  # Unusable, or that a store does not answer
        raise
    except UnidentifiedImageError:
        empty = shards.size(source) == 0 if isinstance(source, Path) else not source.seek(0, io.SEEK_END)
        known = OTHERS.get(source.suffix.lower()) if isinstance(source, Path) else None
        said = f"not an image: {known} could make one of it" if known else f"not an image: expected {READ}"
        raise Unusable("empty file" if empty else said) from None
    except Exception as error:  # Pillow's decoders raise nearly anything for broken files
        if isinstance(error, OSError) and error.strerror:
            raise Unusable(f"unreadable: {error.strerror}") from None
        raise Unusable(f"undecodable: {' '.join(str(error).split()) or type(error).__name__}") from None


def _opened(source: Path | BinaryIO) -> Image.Image:
    """Read a picture's header, and of one in a shard all of it."""
    by_name = BY_NAME.get(source.suffix.lower()) if isinstance(source, Path) else None
    formats = [*FORMATS, by_name] if by_name else FORMATS
    if isinstance(source, Path):
        if inside := shards.divided(source):
            return Image.open(io.BytesIO(shards.content(*inside)), formats=formats)
        if not stat.S_ISREG(source.stat().st_mode):
            raise Unusable("not a file")  # a pipe would be waited for
    return Image.open(source, formats=formats)


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # broken EXIF data is no reason to refuse sound pixels
        return None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_grey(image)).convert("RGB")
    profile = image.info.get("icc_profile")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return _in_srgb(image, profile) if profile else image.convert("RGB")


def _grey(image: Image.Image) -> NDArray[np.uint8]:
    """Scale grey values of any depth to 8 bits, see ``decode``."""
    values = np.array(image)
    clear = values == image.info.get("transparency", -1)
    if values.dtype.kind == "f":
        values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        low, high = float(values.min()), float(values.max())
        if low >= 0 and high <= 1:
            low, high = 0.0, 1.0
        elif low >= 0 and high <= 255:
            low, high = 0.0, 255.0
        scaled = (values - low) * (255 / max(high - low, 1e-12))
        grey = scaled.round().astype(np.uint8)
    else:
        values = values.astype(np.int64) - min(0, int(values.min()))
        bits = next(bits for bits in DEPTHS if int(values[~clear].max(initial=0)) < 2**bits or bits == DEPTHS[-1])
        grey = (values >> (bits - 8)).clip(0, 255).astype(np.uint8)
    grey[clear] = 255
    return grey


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert colours from the profile that a file brings, as cameras and printers have them; most bring sRGB."""
    from PIL import ImageCms

    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(own).lower():
            return image.convert("RGB")
        found = ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # a profile for other colours, or a broken one
        return image.convert("RGB")
    return found or image.convert("RGB")
