"""Image bytes to pixels."""

import io
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from models import images
from models.images import Preprocessing, UnreadableImage, decode, thumbnail

PLAIN = Preprocessing(resize=32, crop=32, mean=(0.5,) * 3, std=(0.5,) * 3)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(side: tuple[int, int] | None = None) -> Image.Image:
    image = Image.fromarray(load_sample_images().images[0])
    return image.resize(side) if side else image


def quadrants() -> Image.Image:
    """Red, green over blue, white: turned images are told apart."""
    image = Image.new("RGB", (64, 64), "red")
    image.paste("green", (32, 0, 64, 32))
    image.paste("blue", (0, 32, 32, 64))
    image.paste("white", (32, 32, 64, 64))
    return image


def bomb(side: int) -> bytes:
    """A PNG of a few KB that claims side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1_000_000, 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_gives_the_same_picture(kind):
    decoded = decode(encode(quadrants(), kind), PLAIN)

    assert decoded.media_type == f"image/{kind.lower()}"
    assert (decoded.width, decoded.height) == (64, 64)
    assert decoded.pixels.shape == (3, 32, 32)
    corners = decoded.pixels[:, [2, 2, -3, -3], [2, -3, 2, -3]].T.float()
    expected = torch.tensor([[255, 0, 0], [0, 128, 0], [0, 0, 255], [255, 255, 255]])
    assert (corners - expected).abs().max() < 30  # JPEG, WebP and GIF are lossy


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(orientation, kind):
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    wide = quadrants().resize((96, 64))
    stored = wide.transpose(turn[orientation]) if orientation in turn else wide
    exif = Image.Exif()
    exif[0x0112] = orientation

    decoded = decode(encode(stored, kind, exif=exif), PLAIN)

    assert (decoded.width, decoded.height) == (96, 64)
    assert torch.equal(decoded.pixels, decode(encode(wide, "PNG"), PLAIN).pixels)


def test_the_first_frame_of_an_animation_counts():
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "TIFF"):
        content = encode(frames[0], kind, save_all=True, append_images=frames[1:])

        pixels = decode(content, PLAIN).pixels.float()

        assert pixels[0].mean() > 200
        assert pixels[2].mean() < 50


def test_kinds_of_pixels_become_rgb():
    ramp = np.linspace(0, 255, 64 * 64).reshape(64, 64)
    grey = Image.fromarray(ramp.astype(np.uint8))
    reference = decode(encode(grey, "PNG"), PLAIN).pixels.float()

    deep = Image.fromarray((ramp * 257).astype(np.uint16))
    for content in (
        encode(grey.convert("LA"), "PNG"),
        encode(grey.convert("RGBA"), "PNG"),
        encode(grey.convert("P"), "PNG"),
        encode(deep, "PNG"),
        encode(deep, "TIFF"),
    ):
        assert (decode(content, PLAIN).pixels.float() - reference).abs().max() <= 2


def test_cmyk_is_converted():
    red = decode(encode(Image.new("CMYK", (40, 40), (0, 255, 255, 0)), "JPEG"), PLAIN).pixels

    assert red.float().mean((1, 2)).tolist() == pytest.approx([254, 0, 0], abs=5)


def test_what_is_transparent_turns_white():
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    palette = Image.new("P", (40, 40), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])

    for content in (encode(clear, "PNG"), encode(palette, "PNG", transparency=1)):
        assert decode(content, PLAIN).pixels.min() == 255


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (33, 31)])
def test_any_size_becomes_the_square(size):
    decoded = decode(encode(Image.new("RGB", size, "red"), "PNG"), PLAIN)

    assert decoded.pixels.shape == (3, 32, 32)
    assert (decoded.width, decoded.height) == size


def test_the_centre_is_kept():
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste("blue", (100, 0, 200, 100))

    pixels = decode(encode(wide, "PNG"), PLAIN).pixels

    assert pixels[2, :, 2:-2].min() > 250


def test_resize_and_crop_in_one_step_equal_the_two_steps():
    image = photo()
    preprocessing = Preprocessing(resize=256, crop=224, mean=(0.5,) * 3, std=(0.5,) * 3)

    pixels = decode(encode(image, "PNG"), preprocessing).pixels.float()

    short = 256 / min(image.size)
    resized = image.resize([round(side * short) for side in image.size], Image.Resampling.BICUBIC)
    x, y = (resized.width - 224) // 2, (resized.height - 224) // 2
    two_steps = np.array(resized.crop((x, y, x + 224, y + 224))).transpose(2, 0, 1)
    assert (pixels - torch.tensor(two_steps).float()).abs().mean() < 2  # half a pixel of rounding


def test_a_large_jpeg_decoded_at_a_reduced_scale_looks_alike():
    large = encode(photo((2560, 1708)), "JPEG", quality=95)
    exact = encode(Image.open(io.BytesIO(large)), "PNG")
    preprocessing = Preprocessing(resize=256, crop=224, mean=(0.5,) * 3, std=(0.5,) * 3)

    fast, slow = (decode(content, preprocessing).pixels.float() for content in (large, exact))

    assert (fast - slow).abs().mean() < 1.0  # of 255


@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_a_truncated_file_is_refused(kind, share):
    content = encode(photo((200, 150)), kind)

    with pytest.raises(UnreadableImage, match=r"damaged|not an image"):
        decode(content[: int(len(content) * share)], PLAIN)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "the file is empty"),
        (b"hello", "not an image that we know"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<?xml version='1.0'?><svg/>", "SVG"),
        (b"%PDF-1.7", "PDF"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image that we know"),
    ],
)
def test_what_is_not_an_image_is_refused_by_its_kind(content, sentence):
    with pytest.raises(UnreadableImage, match=sentence):
        decode(content, PLAIN)


def test_an_image_of_huge_dimensions_is_refused_before_it_is_unpacked():
    content = bomb(60_000)
    assert len(content) < 10_000

    with pytest.raises(UnreadableImage, match=r"60000 x 60000 pixels: at most 50000000"):
        decode(content, PLAIN)


def test_32_bit_pixels_are_refused():
    with pytest.raises(UnreadableImage, match="32-bit"):
        decode(encode(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"), PLAIN)


def test_a_thumbnail_is_small_upright_and_without_metadata():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a camera"
    content = encode(photo((640, 400)), "JPEG", exif=exif)

    small = Image.open(io.BytesIO(thumbnail(content, 100)))

    assert small.format == "WEBP"
    assert small.size == (62, 100)
    assert not small.getexif()


def test_a_thumbnail_never_enlarges():
    small = Image.open(io.BytesIO(thumbnail(encode(Image.new("RGB", (20, 10)), "PNG"), 256)))

    assert small.size == (20, 10)


def test_a_thumbnail_of_what_is_no_image_is_refused():
    with pytest.raises(UnreadableImage):
        thumbnail(b"hello", 100)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK"])
def test_an_image_is_converted_band_by_band_and_comes_out_the_same(mode, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (211, 300, 4), generator=generator, dtype=torch.uint8).numpy()
    image = Image.fromarray(noise, "RGBA").convert("RGB" if mode == "CMYK" else "RGBA")
    image = image.quantize(64) if mode == "P" else image.convert(mode)
    content = encode(image, "TIFF" if mode == "CMYK" else "PNG")
    largest, convert = [], images._to_rgb

    def observed(band):
        largest.append(band.width * band.height)
        return convert(band)

    monkeypatch.setattr(images, "_to_rgb", observed)
    whole = decode(content, PLAIN).pixels
    monkeypatch.setattr(images, "_BAND_PIXELS", 3000)
    banded = decode(content, PLAIN).pixels

    assert torch.equal(whole, banded)
    assert max(largest[1:]) <= 3000
    assert len(largest) > 10


def test_pixels_are_given_room_by_what_the_header_tells(monkeypatch):
    sizes = []
    opened: list = []

    class Recorded(images.PixelRoom):
        @contextmanager
        def take(self, size):
            sizes.append(size)
            assert opened[-1]._im is None  # not a pixel was read
            with super().take(size):
                yield
                with pytest.raises(ValueError, match="closed image"):
                    opened.pop().getpixel((0, 0))

    def open_(*arguments, open_=Image.open, **options):
        opened.append(open_(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr("models.images.Image.open", open_)

    monkeypatch.setattr(images, "PIXEL_ROOM", Recorded(1))
    image = Image.new("RGB", (64, 32))
    for content in (
        encode(image.convert("RGBA"), "PNG"),
        encode(image.convert("L"), "PNG"),
        encode(image, "JPEG", progressive=True),
        encode(image, "WEBP"),
    ):
        decode(content, PLAIN)
        thumbnail(content, 8)

    each = 64 * 32
    assert sizes == [n * each for n in (4, 4, 1, 1, 6, 6, 16, 16)]


def test_images_are_decoded_at_once_as_far_as_there_is_room():
    room, sizes, totals = images.PixelRoom(10), [], []

    def use(size):
        with room.take(size):
            sizes.append(size)
            totals.append(sum(sizes))
            time.sleep(0.002)
            sizes.remove(size)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, [4, 25, 4, 4, 10, 4, 4, 25] * 4))

    assert max(total for total in totals if total != 25) <= 10
    assert not sizes
