"""Image bytes to tensors: one preprocessing for training and serving."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
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
        width, height = _upright_size(image)
        if media_type == "image/jpeg":
            image.draft(None, (2 * preprocessing.resize, 2 * preprocessing.resize))
        square = _resize_and_crop(_to_rgb(ImageOps.exif_transpose(image)), preprocessing)
    # In numpy: torch would start threads of its own here, which slow down those of the network.
    pixels = torch.from_numpy(np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1)))
    return Decoded(pixels, media_type, width, height)


def thumbnail(content: bytes, side: int, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> bytes:
    """The image upright within `side` x `side` pixels, as WebP without metadata.

    Raises:
        UnreadableImage: as for `decode`.
    """
    with _opened(content, max_pixels) as image:
        if image.format in {"JPEG", "MPO"}:
            image.draft(None, (2 * side, 2 * side))
        small = _to_rgb(ImageOps.exif_transpose(image))
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
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


def _upright_size(image: Image.Image) -> tuple[int, int]:
    turned = image.getexif().get(0x0112) in {5, 6, 7, 8}
    return (image.height, image.width) if turned else (image.width, image.height)


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


def _resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Resize and crop in one step, sampling only the part that is kept."""
    extent = min(image.size) * preprocessing.crop / preprocessing.resize  # source pixels
    x, y = (image.width - extent) / 2, (image.height - extent) / 2
    return image.resize(
        (preprocessing.crop, preprocessing.crop),
        _RESAMPLING[preprocessing.interpolation],
        box=(x, y, x + extent, y + extent),
    )
