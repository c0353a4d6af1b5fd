"""Decoding, resizing, augmenting, and mapping over files."""

import io
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from tests.helpers import pictures
from thaw.data import images
from thaw.errors import UserError

RED, WHITE = (255, 0, 0), (255, 255, 255)


def solid(mode: str, colour: object) -> Image.Image:
    return Image.new(mode, (20, 10), colour)  # type: ignore[arg-type]


def grey16(value: int) -> Image.Image:
    return Image.fromarray(np.full((10, 20), value, np.uint16))


def palette(transparent: bool) -> Image.Image:
    image = Image.new("P", (20, 10), 1)
    image.putpalette([0, 0, 255, 255, 0, 0])
    if transparent:
        image.info["transparency"] = 1
    return image


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, lines: bytes, extra: bytes = b"") -> bytes:
    """A PNG with what Pillow cannot write: any depth and any header."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


TRANSPARENT_GREY16 = struct.pack(">I", 2) + b"tRNS\x80\x00" + struct.pack(">I", zlib.crc32(b"tRNS\x80\x00"))


@pytest.mark.parametrize(
    ("image", "kind", "options", "expected"),
    [
        pytest.param(solid("RGB", RED), "JPEG", {"quality": 95}, RED, id="jpeg"),
        pytest.param(solid("L", 77), "JPEG", {}, (77, 77, 77), id="jpeg-grey"),
        pytest.param(solid("CMYK", (0, 255, 255, 0)), "JPEG", {"quality": 95}, RED, id="jpeg-cmyk"),
        pytest.param(solid("RGB", RED), "JPEG", {"progressive": True}, RED, id="jpeg-progressive"),
        pytest.param(solid("RGB", RED), "PNG", {}, RED, id="png"),
        pytest.param(solid("L", 77), "PNG", {}, (77, 77, 77), id="png-grey"),
        pytest.param(solid("1", 1), "PNG", {}, WHITE, id="png-bilevel"),
        pytest.param(palette(False), "PNG", {}, RED, id="png-palette"),
        pytest.param(palette(True), "PNG", {}, WHITE, id="png-palette-transparent"),
        pytest.param(solid("RGB", RED), "PNG", {"transparency": RED}, WHITE, id="png-transparent-colour"),
        pytest.param(solid("RGBA", (255, 0, 0, 0)), "PNG", {}, WHITE, id="png-rgba-transparent"),
        pytest.param(solid("RGBA", (255, 0, 0, 128)), "PNG", {}, (255, 127, 127), id="png-rgba-half"),
        pytest.param(solid("LA", (0, 0)), "PNG", {}, WHITE, id="png-la-transparent"),
        pytest.param(grey16(0x8000), "PNG", {}, (128, 128, 128), id="png-grey16"),
        pytest.param(grey16(0xFFFF), "TIFF", {}, WHITE, id="tiff-grey16"),
        pytest.param(solid("RGB", RED), "TIFF", {"compression": "tiff_lzw"}, RED, id="tiff-lzw"),
        pytest.param(solid("CMYK", (0, 255, 255, 0)), "TIFF", {}, RED, id="tiff-cmyk"),
        pytest.param(solid("RGBA", (255, 0, 0, 0)), "TIFF", {}, WHITE, id="tiff-rgba"),
        pytest.param(solid("RGB", RED), "BMP", {}, RED, id="bmp"),
        pytest.param(palette(False), "GIF", {}, RED, id="gif"),
        pytest.param(palette(True), "GIF", {"transparency": 1}, WHITE, id="gif-transparent"),
        pytest.param(
            solid("RGB", RED),
            "GIF",
            {"save_all": True, "append_images": [solid("RGB", WHITE)]},
            RED,
            id="gif-first-frame",
        ),
        pytest.param(solid("RGB", RED), "WEBP", {"lossless": True}, RED, id="webp"),
        pytest.param(solid("RGBA", (255, 0, 0, 0)), "WEBP", {"lossless": True}, WHITE, id="webp-rgba"),
        pytest.param(solid("RGB", RED), "HEIF", {"quality": 95}, RED, id="heif"),
        pytest.param(solid("RGBA", (255, 0, 0, 0)), "HEIF", {"quality": 95}, WHITE, id="heif-rgba"),
        pytest.param(solid("RGB", RED), "AVIF", {"quality": 95}, RED, id="avif"),
        pytest.param(solid("RGB", RED), "JPEG2000", {}, RED, id="jpeg-2000"),
        pytest.param(solid("RGB", RED), "PPM", {}, RED, id="ppm"),
        pytest.param(
            solid("RGB", RED),
            "MPO",
            {"save_all": True, "append_images": [solid("RGB", WHITE)], "quality": 95},
            RED,
            id="mpo",
        ),
    ],
)
def test_every_format_and_mode_gives_rgb(
    tmp_path: Path, image: Image.Image, kind: str, options: dict[str, object], expected: tuple[int, int, int]
) -> None:
    path = tmp_path / "any name"
    path.write_bytes(encode(image, kind, **options))
    decoded = images.decode(path, max_pixels=200)
    assert (decoded.mode, decoded.size) == ("RGB", (20, 10))
    assert images.measure(path) == (20, 10)
    assert np.abs(np.asarray(decoded, dtype=int) - expected).max() <= 3
    assert images.load(path, 4, "crop").shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(png(1, 1, 16, 2, b"\0\xff\xff\x80\x00\x00\xff"), (255, 128, 0), id="rgb16"),
        pytest.param(png(1, 1, 16, 4, b"\0\x12\x34\x00\x00"), WHITE, id="la16"),
        pytest.param(png(1, 1, 16, 0, b"\0\x80\x00", TRANSPARENT_GREY16), WHITE, id="grey16-transparent"),
        pytest.param(png(1, 1, 2, 0, b"\0\x40"), (85, 85, 85), id="grey2"),
    ],
)
def test_unusual_depths_are_scaled(tmp_path: Path, content: bytes, expected: tuple[int, int, int]) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert images.decode(path).getpixel((0, 0)) == expected


@pytest.mark.parametrize("size", [(8, 8), (9, 17), (321, 318), (640, 481)])
def test_measuring_a_jpeg_gives_its_size_and_finds_it_cut_off(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "a.jpg"
    content = encode(Image.fromarray(pictures.pixels(1, size[1], size[0])), "JPEG")
    path.write_bytes(content)
    assert images.measure(path) == size
    path.write_bytes(content[: int(len(content) * 0.9)])
    for read in (images.measure, images.decode):
        with pytest.raises(images.Unusable, match="truncated"):
            read(path)


JPEG = encode(Image.fromarray(pictures.pixels(1, 64, 64)), "JPEG")
PNG = encode(Image.fromarray(pictures.pixels(1, 64, 64)), "PNG")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "empty file", id="empty"),
        pytest.param(
            b"not a picture at all", "not an image: expected JPEG, PNG, BMP, GIF, WebP, TIFF, HEIC,", id="text"
        ),
        pytest.param(encode(solid("RGB", RED), "PCX"), "not an image: expected JPEG", id="other-format"),
        pytest.param(b"\xff\xd8\xff\xe0", "not an image: expected JPEG", id="jpeg-header-only"),
        pytest.param(JPEG[:-200], "undecodable: image file is truncated (", id="jpeg-truncated"),
        pytest.param(PNG[:-2000], "undecodable: image file is truncated", id="png-truncated"),
        pytest.param(encode(solid("RGB", RED), "WEBP")[:-20], "undecodable: ", id="webp-truncated"),
        pytest.param(encode(Image.fromarray(pictures.pixels(1)), "GIF")[:-60], "undecodable: ", id="gif-truncated"),
        pytest.param(encode(Image.fromarray(pictures.pixels(1)), "BMP")[:-60], "undecodable: ", id="bmp-truncated"),
        pytest.param(
            png(30000, 30000, 8, 2, b""),
            "too large: 30000 x 30000 pixels, at most 100 megapixels are allowed",
            id="bomb",
        ),
    ],
)
def test_unusable_files_say_why_on_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(images.Unusable) as caught:
        images.decode(path, max_pixels=100e6)
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.CR2", "not an image: raw data of a camera (rawpy) could make one of it"),
        ("a.dcm", "not an image: DICOM (pydicom) could make one of it"),
        ("a.mp4", "not an image: a film (ffmpeg) could make one of it"),
    ],
)
def test_what_would_make_an_image_of_it_is_said(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(images.Unusable) as caught:
        images.decode(tmp_path / name)
    assert str(caught.value) == reason


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(images.Unusable, match="^not a file$"):
        images.decode(tmp_path / "a.jpg")


def deep(values: list[float], kind: type) -> Image.Image:
    return Image.fromarray(np.array([values], kind))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(deep([0, 2048, 4095], np.uint16), [0, 128, 255], id="12 bits in 16"),
        pytest.param(deep([0, 512, 1023], np.uint16), [0, 128, 255], id="10 bits in 16"),
        pytest.param(deep([0, 128, 255], np.uint16), [0, 128, 255], id="8 bits in 16"),
        pytest.param(deep([0, 0x8000, 0xFFFF], np.uint16), [0, 128, 255], id="16 bits"),
        pytest.param(deep([0, 2**23, 2**24 - 1], np.int32), [0, 128, 255], id="24 bits in 32"),
        pytest.param(deep([-5, 0, 250], np.int32), [0, 5, 255], id="negative"),
        pytest.param(deep([0, 0.5, 1], np.float32), [0, 128, 255], id="shares"),
        pytest.param(deep([0, 127.5, 200], np.float32), [0, 128, 200], id="as 0 to 255"),
        pytest.param(deep([-100, 0, 300], np.float32), [0, 64, 255], id="any numbers"),
        pytest.param(deep([0, np.nan, 1], np.float32), [0, 0, 255], id="no number"),
        pytest.param(deep([0, 0, 0], np.float32), [0, 0, 0], id="black"),
    ],
)
def test_grey_values_of_any_depth_are_seen(tmp_path: Path, image: Image.Image, expected: list[int]) -> None:
    path = tmp_path / "a.tif"
    image.save(path)
    assert np.asarray(images.decode(path))[0, :, 0].tolist() == expected


def test_colours_are_converted_to_srgb(tmp_path: Path) -> None:
    """A Lab profile and sRGB's own: the first one's colours change, the second one's do not."""
    picture = Image.fromarray(pictures.pixels(1, 40, 40))
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = bytearray(own)
    red, green = (own.index(tag) for tag in (b"rXYZ", b"gXYZ"))
    swapped[red : red + 4], swapped[green : green + 4] = own[green : green + 4], own[red : red + 4]
    swapped = swapped.replace(b"s\0R\0G\0B", b"m\0i\0n\0e").replace(b"sRGB", b"mine")
    for name, profile in (("srgb", own), ("swapped", bytes(swapped)), ("broken", b"no profile")):
        picture.save(tmp_path / f"{name}.png", icc_profile=profile)
    plain = np.asarray(picture)
    assert (np.asarray(images.decode(tmp_path / "srgb.png")) == plain).all()
    assert (np.asarray(images.decode(tmp_path / "broken.png")) == plain).all()
    found = np.asarray(images.decode(tmp_path / "swapped.png"), int)
    assert np.abs(found - plain).mean() > 20, "red and green have changed places"


KINDS = ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "HEIF", "AVIF", "JPEG2000", "PPM", "TGA"]


def test_five_hundred_broken_files_are_images_or_say_why_at_once(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    whole = {kind: encode(Image.fromarray(pictures.pixels(1, 40, 60)), kind) for kind in KINDS}
    slowest, usable = 0.0, 0
    for number in range(550):
        kind = KINDS[number % len(KINDS)]
        content = bytearray(whole[kind])
        match number // len(KINDS) % 4:
            case 0:
                del content[int(random.integers(len(content))) :]
            case 1:
                for place in random.integers(len(content), size=int(random.integers(1, 20))):
                    content[place] = int(random.integers(256))
            case 2:
                place = int(random.integers(len(content)))
                content[place:place] = random.bytes(int(random.integers(1, 200)))
            case _:
                content = bytearray(random.bytes(20) + content[20:])
        path = tmp_path / f"{number}.{'tga' if kind == 'TGA' else 'jpg'}"
        path.write_bytes(content)
        began = time.process_time()  # what other programs do meanwhile does not count
        try:
            images.measure(path, 1e6)
            usable += 1
        except images.Unusable as error:
            said = str(error)
            assert said, kind
            assert "\n" not in said
        slowest = max(slowest, time.process_time() - began)
    assert slowest < 2
    assert 0 < usable < 550


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(images.Unusable, match=r"^unreadable: No such file or directory$"):
        images.decode(tmp_path / "a.jpg")


def test_load_names_the_file_that_changed_since_prepare(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.jpg: expected the image that prepare indexed, found empty file; run"):
        images.load(tmp_path / "a.jpg", 8, "crop")


def test_a_limit_above_pillows_own_is_honoured(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = tmp_path / "a.png"
    Image.new("1", (20000, 10000)).save(path)  # 200 megapixels; Pillow alone would refuse above 179
    with pytest.raises(images.Unusable, match=r"too large: 20000 x 10000 pixels, at most 199\.5 megapixels"):
        images.decode(path, max_pixels=199.5e6)
    with Image.open(path) as image:
        assert image.size == (20000, 10000)
    assert not recwarn.list


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, kind: str) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = RED  # only this quarter
    # The inverse of each correction: the two quarter turns undo each other, the rest undo themselves.
    undo = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}.get(
        orientation, images.UPRIGHT.get(orientation)
    )
    stored = Image.fromarray(upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a"
    path.write_bytes(encode(stored if undo is None else stored.transpose(undo), kind, exif=exif))
    decoded = images.decode(path)
    assert decoded.size == images.measure(path) == (32, 16)
    assert np.abs(np.asarray(decoded, dtype=int)[[2, 2, 13], [2, 29, 2]] - [RED, (0, 0, 0), (0, 0, 0)]).max() < 30


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_data_do_not_cost_the_image(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encode(solid("RGB", RED), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01"))
    assert images.decode(path).size == (20, 10)


def test_load_decodes_large_jpegs_smaller_but_nearly_the_same(tmp_path: Path) -> None:
    y, x = np.mgrid[:640, :960]
    waves = np.stack([np.sin(x / 37), np.cos(y / 23), np.sin((x + y) / 51)], axis=-1)
    path = tmp_path / "a.jpg"
    Image.fromarray((127 + 120 * waves).astype(np.uint8)).save(path, quality=95)
    with Image.open(path) as image:
        image.draft(None, (128, 128))
        assert image.size == (240, 160)  # decoded at a quarter, and still twice 64 or more
    whole = np.asarray(images.decode(path).resize((64, 64), Image.Resampling.BILINEAR), dtype=int)
    loaded = images.load(path, 64, "stretch")
    assert (loaded.dtype, loaded.shape) == (np.uint8, (64, 64, 3))
    assert np.abs(loaded - whole).max() <= 4
    assert np.array_equal(loaded, images.load(path, 64, "stretch"))


@pytest.mark.parametrize("upright", [False, True])
def test_of_a_picture_that_is_no_square_the_middle_or_all_is_shown(upright: bool) -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, :10, 0], pixels[:, 10:20, 1], pixels[:, 20:, 2] = 255, 255, 255  # red, green and blue, side by side
    image = Image.fromarray(pixels.transpose(1, 0, 2) if upright else pixels)
    middle, everything = (np.asarray(images.square(image, 10, fit)) for fit in ("crop", "stretch"))
    np.testing.assert_array_equal(middle, np.broadcast_to([0, 255, 0], (10, 10, 3)))
    ends = (everything[0, 5], everything[-1, 5]) if upright else (everything[5, 0], everything[5, -1])
    np.testing.assert_array_equal(ends, [[255, 0, 0], [0, 0, 255]])


@given(side=st.integers(1, 70), size=st.integers(1, 70))
def test_a_square_picture_is_the_same_either_way(side: int, size: int) -> None:
    image = Image.fromarray(np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8))
    plain = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    for fit in ("crop", "stretch"):
        np.testing.assert_array_equal(images.square(image, size, fit), plain)
