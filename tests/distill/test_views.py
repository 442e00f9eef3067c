from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from dhox.distill.images.views import RATIO, SCALE, philox, render, view_boxes, view_keys


def box(seed: int, name: str, view: int, width: int, height: int) -> tuple[int, ...]:
    return tuple(view_boxes(view_keys([name], seed), np.array([view]), np.array([[width, height]]))[0].tolist())


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known answers of Random123, kat_vectors, philox4x32 with 10 rounds
        ([0] * 4, 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, 0xFFFFFFFFFFFFFFFF, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], 0x299F31D0A4093822, "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_the_generator_gives_the_published_answers(counter: list[int], key: int, expected: str) -> None:
    numbers = philox(np.array([counter], np.uint32), np.array([key], np.uint64))[0]
    assert " ".join(f"{number:08x}" for number in numbers) == expected


@given(seed=st.integers(0, 2**31), view=st.integers(0, 99), width=st.integers(8, 900), height=st.integers(8, 900))
def test_a_view_lies_in_the_image_and_is_a_pure_function(seed: int, view: int, width: int, height: int) -> None:
    left, top, w, h, _ = box(seed, "train/a/1.png", view, width, height)
    assert (left, top, w, h) == box(seed, "train/a/1.png", view, width, height)[:4]
    assert 0 <= left < left + w <= width
    assert 0 <= top < top + h <= height


def test_a_view_does_not_depend_on_the_batch_that_it_is_drawn_in() -> None:
    names = [f"{i}.png" for i in range(50)]
    sizes = np.stack([np.arange(50) + 20, np.arange(50)[::-1] * 7 + 9], axis=1)
    together = view_boxes(view_keys(names, 3), np.arange(50) % 4, sizes)
    for i in (0, 17, 49):
        assert tuple(together[i].tolist()) == box(3, names[i], i % 4, *sizes[i].tolist())


def test_areas_ratios_and_flips_are_distributed_as_torchvisions() -> None:
    n = 4000
    boxes = view_boxes(view_keys([f"{i}" for i in range(n)], 0), np.zeros(n, int), np.tile([500, 400], (n, 1)))
    areas, ratios = boxes[:, 2] * boxes[:, 3] / 200_000, boxes[:, 2] / boxes[:, 3]
    assert areas.min() > SCALE[0] - 0.01
    assert areas.max() < SCALE[1] + 0.01
    image = Image.new("L", (500, 400))
    theirs = np.array([RandomResizedCrop.get_params(image, SCALE, RATIO) for _ in range(n)])
    assert areas.mean() == pytest.approx((theirs[:, 2] * theirs[:, 3]).mean() / 200_000, abs=0.01)
    assert ratios.mean() == pytest.approx((theirs[:, 3] / theirs[:, 2]).mean(), abs=0.02)
    assert boxes[:, 0].mean() == pytest.approx(theirs[:, 1].mean(), rel=0.06)
    assert boxes[:, 1].mean() == pytest.approx(theirs[:, 0].mean(), rel=0.06)
    assert ratios.min() > RATIO[0] - 0.01
    assert ratios.max() < RATIO[1] + 0.01
    assert boxes[:, 4].mean() == pytest.approx(0.5, abs=0.03)


def test_views_of_one_image_differ_and_names_seeds_and_numbers_matter() -> None:
    boxes = {box(seed, name, view, 640, 480) for seed in range(3) for name in "ab" for view in range(5)}
    assert len(boxes) == 30


def test_extreme_shapes_fall_back_to_the_centre() -> None:
    left, top, width, height, _ = box(0, "x", 0, 4000, 10)
    assert (width, height, top) == (13, 10, 0)
    assert left == (4000 - 13) // 2


def test_render_crops_mirrors_and_keeps_the_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    crop = render(image, np.array([4, 2, 16, 16, 0]), 16, "bicubic")
    assert np.array_equal(crop, pixels[2:18, 4:20])
    assert np.array_equal(render(image, np.array([4, 2, 16, 16, 1]), 16, "bicubic"), crop[:, ::-1])
