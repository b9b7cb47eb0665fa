"""Image bytes to tensors: one preprocessing for training and serving."""

import io
import math
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor

DEFAULT_MAX_PIXELS = 50_000_000
MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",  # a JPEG with more pictures behind the first, from phones
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
}
_FORMATS = tuple(name for name in MEDIA_TYPES if name != "MPO")  # MPO is opened by JPEG
_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}
_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by Exif orientation
_SIDEWAYS = {5, 6, 7, 8}
_BAND_PIXELS = 1 << 20  # that are converted at once
_REACH = 3  # pixels of the result, at most, that a filter looks beyond one
_DEEP = {"I;16", "I;16L", "I;16B", "I;16N"}
# What Pillow's decoders raise on bytes that are not what they claim to be.
_FAILURES = (
    OSError,
    SyntaxError,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    EOFError,
    AttributeError,
    MemoryError,
    struct.error,
    zlib.error,
)

# Our own limit decides, per call; Pillow's is for the whole process and warns before it refuses.
Image.MAX_IMAGE_PIXELS = None


class UnreadableImage(ValueError):
    """The bytes are not an image we can decode."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an encoder wants its images."""

    resize: int  # pixels of the shorter side, before the crop
    crop: int  # pixels of the centre square
    mean: tuple[float, float, float]  # of values in 0..1
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"


class PixelRoom:
    """Memory for the pixels of images that are decoded at once; a larger image goes alone.

    A file of a few kilobytes may hold 50 million pixels, which its header tells.
    """

    def __init__(self, size: int) -> None:
        self.size = size  # bytes
        self._taken = 0
        self._released = threading.Condition()
        self._turnstile = threading.Lock()  # so that small images do not pass a large one for ever

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Wait for room, and have it for a while."""
        with self._turnstile, self._released:
            self._released.wait_for(lambda: not self._taken or self._taken + size <= self.size)
            self._taken += size
        try:
            yield
        finally:
            with self._released:
                self._taken -= size
                self._released.notify_all()


PIXEL_ROOM = PixelRoom(256 << 20)  # of this process


class Decoded(NamedTuple):
    """An image as its encoder wants it, and what the file was."""

    pixels: UInt8[Tensor, "3 S S"]
    media_type: str
    width: int  # pixels, upright
    height: int


def decode(
    content: bytes, preprocessing: Preprocessing, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Decoded:
    """Decode an image upright and in RGB, resize its shorter side and crop the centre.

    A JPEG is decoded at a reduced scale, never below twice the size that is needed.

    Raises:
        UnreadableImage: not an image, damaged, of an unsupported kind, or larger than `max_pixels`.
    """
    with _opened(content, max_pixels) as image:
        media_type = MEDIA_TYPES[image.format or ""]
        width, height = image.size
        if media_type == "image/jpeg":
            image.draft(None, (2 * preprocessing.resize, 2 * preprocessing.resize))
        square, sideways = _resize_and_crop(image, preprocessing)
    # In numpy: torch would start threads of its own here, which slow down those of the network.
    pixels = torch.from_numpy(np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1)))
    upright = (height, width) if sideways else (width, height)
    return Decoded(pixels, media_type, *upright)


def thumbnail(content: bytes, side: int, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> bytes:
    """The image upright within `side` x `side` pixels, as WebP without metadata.

    Raises:
        UnreadableImage: as for `decode`.
    """
    with _opened(content, max_pixels) as image:
        if image.format in {"JPEG", "MPO"}:
            image.draft(None, (2 * side, 2 * side))
        shrink = min(1.0, side / max(image.size))
        size = (max(1, round(image.width * shrink)), max(1, round(image.height * shrink)))
        small, _ = _resample(
            image,
            size,
            (0.0, 0.0, float(image.width), float(image.height)),
            Image.Resampling.LANCZOS,
        )
    small.info.clear()
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=82)
    return buffer.getvalue()


@contextmanager
def _opened(content: bytes, max_pixels: int) -> Iterator[ImageFile.ImageFile]:
    if not content:
        raise UnreadableImage("the file is empty: send a JPEG, PNG, WebP, GIF, BMP or TIFF image")
    try:
        # Pillow warns of oddities such as damaged metadata, which do not concern the pixels.
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(content), formats=_FORMATS) as image,
        ):
            _check_size(image, max_pixels)
            yield image
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(
            f"{_kind(content)}: send a JPEG, PNG, WebP, GIF, BMP or TIFF image"
        ) from error
    except _FAILURES as error:
        reason = str(error) or type(error).__name__
        raise UnreadableImage(
            f"the image is damaged or incomplete ({reason}): save it again and send that"
        ) from error


def _check_size(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise UnreadableImage(
            f"the image has {image.width} x {image.height} pixels: "
            f"at most {max_pixels} in all are allowed"
        )


def _kind(content: bytes) -> str:
    start = content[:512].lstrip().lower()
    if start.startswith((b"<svg", b"<?xml")) or b"<svg" in start:
        return "the file is an SVG drawing, which has no pixels"
    if start.startswith(b"%pdf"):
        return "the file is a PDF document"
    if content[4:12] in {b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif"}:
        return "the file is a HEIC or AVIF image, which is not supported"
    return "the file is not an image that we know"


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any kind of pixels as 8-bit RGB; what is transparent turns white."""
    if image.mode in _DEEP:
        deep = np.asarray(image).astype(np.float32) / 257  # 0..65535 to 0..255
        return Image.fromarray(deep.round().astype(np.uint8)).convert("RGB")
    if image.mode in {"I", "F"}:
        raise UnreadableImage(
            "the image has 32-bit pixels, whose white is not defined: save it with 8 or 16 bits"
        )
    if image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info:
        clear = image.convert("RGBA")
        white = Image.new("RGBA", clear.size, "white")
        return Image.alpha_composite(white, clear).convert("RGB")
    return image.convert("RGB")


def _resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> tuple[Image.Image, bool]:
    """Resize and crop in one step, sampling only the part that is kept."""
    extent = min(image.size) * preprocessing.crop / preprocessing.resize  # source pixels
    x, y = (image.width - extent) / 2, (image.height - extent) / 2
    size = (preprocessing.crop, preprocessing.crop)
    box = (x, y, x + extent, y + extent)
    return _resample(image, size, box, _RESAMPLING[preprocessing.interpolation])


def _resample(
    image: Image.Image,
    size: tuple[int, int],
    box: tuple[float, float, float, float],
    resampling: Image.Resampling,
) -> tuple[Image.Image, bool]:
    """A part of an image in RGB, resized and turned upright, and whether it lay on its side.

    What is not in RGB is converted band by band. Each is only made narrower; then all are made
    lower at once, which are the two steps in which Pillow resizes, so that nothing changes. An
    image that lies on its side is made lower first, as if it had been turned before.
    """
    with PIXEL_ROOM.take(_bytes_to_decode(image)):
        image.load()  # no sooner: to ask a PNG for its orientation reads it to the end
        orientation = image.getexif().get(0x0112, 1)
        sideways = orientation in _SIDEWAYS
        if image.mode == "RGB" and "transparency" not in image.info and not sideways:
            small = image.resize(size, resampling, box)
        else:
            small = _resample_in_bands(image, size, box, resampling, sideways=sideways)
        image.close()  # its pixels go before the room does
    small = small.transpose(_TURNED[orientation]) if orientation in _TURNED else small
    return small, sideways


def _resample_in_bands(
    image: Image.Image,
    size: tuple[int, int],
    box: tuple[float, float, float, float],
    resampling: Image.Resampling,
    *,
    sideways: bool,
) -> Image.Image:
    def pair(x: int, y: int) -> tuple[int, int]:
        return (y, x) if sideways else (x, y)

    def area(x: float, y: float, right: float, lower: float) -> tuple[float, float, float, float]:
        return (y, x, lower, right) if sideways else (x, y, right, lower)

    (width, height), (new_width, new_height) = pair(*image.size), pair(*size)
    left, top, right, bottom = area(*box)
    reach = _REACH * max(1.0, (bottom - top) / new_height) + 1
    first, last = max(0, math.floor(top - reach)), min(height, math.ceil(bottom + reach))
    rows = max(1, _BAND_PIXELS // width)
    narrow = Image.new("RGB", pair(new_width, last - first))
    for start in range(first, last, rows):
        count = min(rows, last - start)
        band = _to_rgb(image.crop((*pair(0, start), *pair(width, start + count))))
        band = band.resize(pair(new_width, count), resampling, area(left, 0.0, right, float(count)))
        narrow.paste(band, pair(0, start - first))
    rest = area(0.0, top - first, float(new_width), bottom - first)
    return narrow.resize(size, resampling, rest)


def _bytes_to_decode(image: Image.Image) -> int:
    """Memory that the pixels of an image take while it is decoded, judging by its header."""
    if getattr(image, "format", None) == "WEBP":
        return 16 * image.width * image.height  # libwebp has two canvases, Pillow two copies
    if image.info.get("progressive"):  # libjpeg keeps the coefficients of the whole, in full size
        scale: int = (getattr(image, "decoderconfig", None) or (1,))[0]
        return 6 * image.width * image.height * scale**2
    channels = 1 if image.mode in {"1", "L", "P"} else 4
    return channels * image.width * image.height
