"""Real-world and hostile picture files."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llada_uni.errors import ImageError
from llada_uni.grid import Geometry, TokenGrid
from llada_uni.image_tokenizer.images import (
    for_editing,
    for_understanding,
    load_image,
    resize_to_cover_and_crop,
    whiten,
)

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def red(mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> Image.Image:
    return Image.new("RGB", size, RED).convert(mode)


def assert_one_line(error: pytest.ExceptionInfo) -> None:
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


# Sources


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "TGA", "PPM", "ICO"])
def test_lossless_formats(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = load_image(encoded(red(size=(16, 16)), kind, **options))
    assert picture.mode == "RGB"
    assert picture.getpixel((3, 3)) == RED


def test_path_and_text_path(tmp_path):
    path = tmp_path / "wide ☃.png"
    path.write_bytes(encoded(red()))
    assert load_image(path).size == load_image(str(path)).size == (6, 4)


def test_data_uri_with_line_breaks():
    payload = base64.encodebytes(encoded(red())).decode()
    assert load_image(f"data:image/png;base64,{payload}").getpixel((0, 0)) == RED


def test_pil_image_is_copied():
    source = red()
    result = load_image(source)
    result.putpixel((0, 0), BLUE)
    assert source.getpixel((0, 0)) == RED


# Kinds of pixels


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    upright = np.zeros((2, 3, 3), np.uint8)
    upright[0, 0], upright[1, 2] = RED, BLUE
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif.tobytes())
    assert np.array_equal(np.asarray(load_image(data)), upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_hide_the_picture():
    data = encoded(red(), "JPEG", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff" + b"\x01\x12" * 3, quality=95)
    assert load_image(data).size == (6, 4)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_unknown_orientation_is_ignored(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert load_image(encoded(red(), exif=exif.tobytes())).size == (6, 4)


@pytest.mark.parametrize("path", [["RGBA"], ["LA"], ["RGBa"], ["LA", "La"]], ids=lambda path: path[-1])
def test_transparent_parts_are_white(path):
    source = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    source.putpixel((1, 0), (90, 90, 90, 255))
    for mode in path:
        source = source.convert(mode)
    picture = load_image(source)
    assert picture.mode == "RGB"
    assert [picture.getpixel((x, 0)) for x in (0, 1)] == [WHITE, (90, 90, 90)]


def test_palette_with_alpha_channel():
    source = Image.frombytes("PA", (2, 1), bytes([0, 0, 1, 255]))
    source.putpalette([255, 0, 0, 0, 0, 255])
    assert [load_image(source).getpixel((x, 0)) for x in (0, 1)] == [WHITE, BLUE]


def test_palette_with_transparent_entry():
    source = Image.new("P", (2, 1))
    source.putpalette([255, 0, 0, 0, 0, 255])
    source.putpixel((1, 0), 1)
    picture = load_image(encoded(source, transparency=0))
    assert [picture.getpixel((x, 0)) for x in (0, 1)] == [WHITE, BLUE]


def test_colour_key_transparency():
    source = Image.new("RGB", (2, 1), RED)
    source.putpixel((1, 0), BLUE)
    picture = load_image(encoded(source, transparency=RED))
    assert [picture.getpixel((x, 0)) for x in (0, 1)] == [WHITE, BLUE]


def test_half_transparent_is_blended():
    assert load_image(Image.new("RGBA", (1, 1), (0, 0, 0, 128))).getpixel((0, 0)) == (127, 127, 127)


def test_released_rule_drops_other_transparency():
    assert whiten(Image.new("LA", (1, 1), (40, 0)), "released").getpixel((0, 0)) == (40, 40, 40)
    assert whiten(Image.new("LA", (1, 1), (40, 0))).getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "YCbCr", "HSV", "1", "RGBX"])
def test_other_modes_become_rgb(mode):
    picture = load_image(Image.new("RGB", (4, 4), WHITE).convert(mode))
    assert picture.mode == "RGB"
    assert picture.getpixel((1, 1)) == WHITE


def test_lab_becomes_rgb():
    picture = load_image(Image.new("RGB", (4, 4), WHITE).convert("LAB"))
    assert picture.mode == "RGB"
    assert min(picture.getpixel((1, 1))) > 250


def test_cmyk_jpeg():
    picture = load_image(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    assert np.abs(np.array(picture.getpixel((8, 8))) - RED).max() < 12


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_uses_the_whole_range(kind):
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    picture = load_image(encoded(Image.fromarray(values), kind))
    assert [picture.getpixel((x, 0))[0] for x in range(4)] == [0, 1, 128, 255]


def test_dark_sixteen_bit_grey_stays_dark():
    assert load_image(Image.fromarray(np.full((2, 2), 200, np.uint16))).getpixel((0, 0)) == (1, 1, 1)


def test_big_endian_sixteen_bit():
    source = Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 0, 65535))
    assert [load_image(source).getpixel((x, 0))[0] for x in (0, 1)] == [0, 255]


@pytest.mark.parametrize(("top", "expected"), [(255, 255), (65535, 255), (1_000_000, 255)])
def test_thirty_two_bit_grey(top, expected):
    values = np.array([[-5, 0, top // 2, top]], np.int32)
    picture = load_image(Image.fromarray(values))
    assert picture.getpixel((0, 0)) == picture.getpixel((1, 0)) == (0, 0, 0)
    assert abs(picture.getpixel((2, 0))[0] - 127) <= 1
    assert picture.getpixel((3, 0))[0] == expected


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_float_grey(top):
    values = np.array([[np.nan, -np.inf, top / 2, top]], np.float32)
    picture = load_image(Image.fromarray(values))
    assert picture.getpixel((0, 0)) == picture.getpixel((1, 0)) == (0, 0, 0)
    assert abs(picture.getpixel((2, 0))[0] - 127) <= 1
    assert picture.getpixel((3, 0)) == WHITE


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = load_image(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert picture.getpixel((2, 2)) == RED


# Hostile files


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(40_000, 40_000), (2**31 - 1, 2**31 - 1), (100_000, 100_000)])
def test_decompression_bomb_is_refused_before_decoding(size):
    with pytest.raises(ImageError, match="pixels") as error:
        load_image(png_header(*size))
    assert_one_line(error)


def test_pixel_limit_can_be_lowered():
    data = encoded(red(size=(30, 20)))
    assert load_image(data, max_pixels=600).size == (30, 20)
    for source in (data, red(size=(30, 20))):
        with pytest.raises(ImageError, match="30x20 = 600 pixels, at most 599"):
            load_image(source, max_pixels=599)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_truncated_file(kind, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(ImageError) as error:
        load_image(data[: int(len(data) * share)])
    assert_one_line(error)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00",
        b"not a picture at all" * 50,
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"\xff\xd8\xff",
        b"RIFF\x00\x00\x00\x00WEBP",
    ],
)
def test_garbage_bytes(data):
    with pytest.raises(ImageError, match="not a picture") as error:
        load_image(data)
    assert_one_line(error)


def test_svg_and_html_are_named():
    with pytest.raises(ImageError, match="export it as PNG"):
        load_image(b'<?xml version="1.0"?><svg/>')


def test_heic_photo_gets_advice():
    with pytest.raises(ImageError, match="HEIC photo"):
        load_image(b"\x00\x00\x00\x18ftypheic" + bytes(40))


def test_formats_that_run_programs_are_not_opened():
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    assert Image.open(io.BytesIO(postscript)).format == "EPS"
    with pytest.raises(ImageError, match="not a picture"):
        load_image(postscript)


@pytest.mark.parametrize("source", [b"", "data:image/png;base64,"])
def test_empty_sources(source):
    with pytest.raises(ImageError, match="is empty"):
        load_image(source)


def test_empty_picture():
    with pytest.raises(ImageError, match="is empty"):
        load_image(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize(
    "uri", ["data:", "data:image/png", "data:image/png,abc", "data:image/png;base64,%%%", "data:;base64,abc"]
)
def test_malformed_data_uri(uri):
    with pytest.raises(ImageError) as error:
        load_image(uri)
    assert_one_line(error)


@pytest.mark.parametrize("address", ["https://example.org/a.png", "HTTP://example.org", "file:///a.png", "s3://b/c"])
def test_addresses_are_not_fetched(address):
    with pytest.raises(ImageError, match="download it first"):
        load_image(address)


@pytest.mark.parametrize("source", ["nowhere.png", "a\x00b", "x" * 100_000, "", Path("missing/picture.png")])
def test_unreadable_paths(source):
    with pytest.raises(ImageError) as error:
        load_image(source)
    assert_one_line(error)


def test_directory(tmp_path):
    with pytest.raises(ImageError, match="cannot read"):
        load_image(tmp_path)


@pytest.mark.parametrize("source", [None, 5, np.zeros((4, 4, 3), np.uint8), ["a.png"]])
def test_other_objects(source):
    with pytest.raises(ImageError, match="expected a PIL image"):
        load_image(source)


# Front ends


def test_understanding_on_trained_grids_gives_exactly_those():
    geometry = Geometry(patch_size=8, vae_factor=4, trained_grids=(TokenGrid(8, 8), TokenGrid(8, 12), TokenGrid(12, 8)))
    for size in ((640, 480), (20, 300), (64, 64), (1, 1)):
        picture = for_understanding(Image.new("RGB", size, RED), geometry)
        assert (picture.height // 8, picture.width // 8) in {(8, 8), (8, 12), (12, 8)}
        assert picture.getextrema() == ((255, 255), (0, 0), (0, 0))


def test_editing_keeps_the_whole_scene_by_default():
    photo = Image.new("RGB", (4000, 3000), WHITE)
    photo.paste(RED, (1700, 1200, 2300, 1800))
    covered, literal = for_editing(photo, Geometry()), for_editing(photo, Geometry(), crop="released")
    assert covered.size == literal.size == (576, 448)
    assert np.mean(np.asarray(covered)[..., 1] < 128) < 0.05
    assert np.mean(np.asarray(literal)[..., 1] < 128) > 0.9


def test_small_pictures_fill_the_window_only_by_default():
    small = red(size=(100, 100))
    assert np.asarray(for_editing(small, Geometry()))[..., 0].min() == 255
    assert np.asarray(for_editing(small, Geometry(), crop="released"))[..., 0].min() == 0


@pytest.mark.parametrize("front_end", [for_understanding, for_editing])
def test_extremely_elongated_pictures_are_refused(front_end):
    with pytest.raises(ImageError, match="more elongated than 200:1"):
        front_end(red(size=(1, 201)), Geometry())


@pytest.mark.parametrize(("size", "target"), [((10, 7), (64, 64)), ((300, 20), (32, 64)), ((64, 32), (32, 64))])
def test_cover_and_crop(size, target):
    picture = resize_to_cover_and_crop(red(size=size), target)
    assert picture.size == target[::-1]
    assert picture.getextrema() == ((255, 255), (0, 0), (0, 0))
