"""Decoding of encoded pictures into one array, of one size and one number of channels."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from dimat.data.dataset import Tell
from dimat.errors import DataError
from dimat.files import check_bytes

MAX_PIXELS = 64 * 10**6
_FORMATS = ("PNG", "JPEG")
_GRAY = ("1", "L", "LA")
_COLOR = ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_THREADS = min(4, os.cpu_count() or 1)
_BLOCK = 64  # pictures a task, so that 100,000 of them are not 100,000 futures


@dataclass(frozen=True)
class Picture:
    """An encoded picture, PNG or JPEG.

    Args:
        name: Its place, for messages.
        open: A function that opens the encoded bytes, anew at every call.
    """

    name: str
    open: Callable[[], BinaryIO]


def decode(pictures: Sequence[Picture], tell: Tell) -> Tensor:
    """The pixels of all pictures, with one channel if all are gray, and three otherwise.

    Transparent pixels are laid on black. All headers are read first, so that no picture is decoded
    if one does not fit.

    Args:
        pictures: One or more, of one size and 8 bits a channel.
        tell: Listener to the decoding.

    Returns:
        (n, height, width, channels), uint8.

    Raises:
        DataError: If a picture is damaged, too large, or not as large as the others.
    """
    num = len(pictures)
    blocks = [range(start, min(start + _BLOCK, num)) for start in range(0, num, _BLOCK)]
    # Pillow warns of EXIF data, which are not used, and of sizes, which are checked here.
    with warnings.catch_warnings(), ThreadPoolExecutor(_THREADS) as pool:
        warnings.simplefilter("ignore")
        tell(0, num)
        parts = pool.map(lambda block: [_head(pictures[i]) for i in block], blocks)
        heads = [head for part in parts for head in part]
        height, width = _one_size(pictures, heads)
        mode = "L" if all(head.gray for head in heads) else "RGB"
        needed, on_disk = num * height * width * len(mode), sum(head.on_disk for head in heads)
        check_bytes(f"{pictures[0].name} and the other {num - 1:,}", needed, on_disk, DataError)
        images = np.empty((num, height, width, len(mode)), np.uint8)

        def fill(block: range) -> int:
            for i in block:
                images[i] = _pixels(pictures[i], mode)
            return len(block)

        for new in pool.map(fill, blocks):
            tell(new, num)
    return torch.from_numpy(images)


class _Head(NamedTuple):
    """The header of a picture."""

    size: tuple[int, int]  # height, width
    gray: bool
    on_disk: int  # bytes


def _head(picture: Picture) -> _Head:
    with _opened(picture) as image, picture.open() as file:
        if image.width * image.height > MAX_PIXELS:
            raise _too_large(picture)
        if image.mode not in (*_GRAY, *_COLOR):
            raise DataError(
                f"{picture.name}: pixels of Pillow's mode '{image.mode}': images have 8 bits a "
                "channel; convert it first"
            )
        return _Head((image.height, image.width), image.mode in _GRAY, file.seek(0, os.SEEK_END))


def _one_size(pictures: Sequence[Picture], heads: Sequence[_Head]) -> tuple[int, int]:
    """The size of all pictures."""
    (usual, count), *others = Counter(head.size for head in heads).most_common()
    if others:
        odd = next(i for i, head in enumerate(heads) if head.size != usual)
        height, width = heads[odd].size
        raise DataError(
            f"{pictures[odd].name}: height x width is {height} x {width}, but {usual[0]} x "
            f"{usual[1]} in {count} of {len(heads)} images: all must have one size; resize them "
            "first, for example with Pillow's ImageOps.fit"
        )
    return usual


def _pixels(picture: Picture, mode: str) -> NDArray[np.uint8]:
    """The pixels of a picture, (height, width, channels)."""
    with _opened(picture) as image:
        if "A" in image.getbands() or "transparency" in image.info:
            flat = Image.new("RGBA", image.size, "black")
            flat.alpha_composite(image.convert("RGBA"))
            pixels = np.asarray(flat.convert(mode))
        else:
            pixels = np.asarray(image.convert(mode))
    return pixels.reshape(*pixels.shape[:2], len(mode))


@contextmanager
def _opened(picture: Picture) -> Iterator[Image.Image]:
    """A context with an opened picture, in which every error is told with the picture's name."""
    try:
        with picture.open() as file, Image.open(file, formats=_FORMATS) as image:
            yield image
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(picture) from error
    except UnidentifiedImageError as error:
        raise DataError(f"{picture.name}: no PNG or JPEG image, or damaged") from error
    except Exception as error:  # damaged data make Pillow raise almost anything
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{picture.name}: cannot be read ({error.strerror})") from error
        raise DataError(f"{picture.name}: damaged or truncated ({error})") from error


def _too_large(picture: Picture) -> DataError:
    return DataError(f"{picture.name}: more than {MAX_PIXELS / 1e6:.0f} megapixels")
