"""Flip and crop against a loop that is plainly right."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dimat.data import flip_and_crop, generator


def one_by_one(images: Tensor, random: torch.Generator, padding: int) -> Tensor:
    """The same draws, image by image: pad, crop, mirror."""
    flips = torch.rand(len(images), generator=random) < 0.5
    down, right = torch.randint(0, 2 * padding + 1, (2, len(images)), generator=random).tolist()
    _, _, height, width = images.shape
    made = []
    for image, flip, y, x in zip(images, flips, down, right, strict=True):
        crop = functional.pad(image, (padding,) * 4)[:, y : y + height, x : x + width]
        made.append(crop.flip(2) if flip else crop)
    return torch.stack(made)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize(("padding", "shape"), [(0, (6, 5)), (2, (6, 5)), (4, (3, 3)), (7, (1, 4))])
def test_it_is_the_mirrored_crop_of_the_padded_image(
    dtype: torch.dtype, padding: int, shape: tuple[int, int]
) -> None:
    images = torch.randint(1, 256, (50, 2, *shape), generator=generator(1)).to(dtype)
    before = images.clone()
    made = flip_and_crop(images, generator(2), padding)
    assert made.dtype == dtype
    assert made.shape == images.shape
    torch.testing.assert_close(made, one_by_one(images, generator(2), padding), rtol=0, atol=0)
    torch.testing.assert_close(images, before, rtol=0, atol=0)


def test_without_padding_an_image_is_itself_or_its_mirror_image() -> None:
    images = torch.rand(200, 1, 4, 6, generator=generator(3))
    made = flip_and_crop(images, generator(4), padding=0)
    same = (made == images).flatten(1).all(1)
    mirrored = (made == images.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 70 < int(mirrored.sum()) < 130


def test_every_shift_up_to_the_padding_occurs() -> None:
    images = torch.zeros(500, 1, 5, 5)
    images[:, 0, 2, 2] = 1
    made = flip_and_crop(images, generator(5), padding=2)
    places = {tuple(place) for place in made[:, 0].nonzero()[:, 1:].tolist()}
    assert places == {(y, x) for y in range(5) for x in range(5)}


def test_the_layout_in_memory_makes_no_difference() -> None:
    images = torch.rand(20, 3, 6, 6, generator=generator(6))
    last = images.to(memory_format=torch.channels_last)
    torch.testing.assert_close(
        flip_and_crop(last, generator(7)), flip_and_crop(images, generator(7)), rtol=0, atol=0
    )
