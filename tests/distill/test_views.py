from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from dhox.distill.views import RATIO, SCALE, View, render, view_of


@given(seed=st.integers(0, 2**31), view=st.integers(0, 99), width=st.integers(8, 900), height=st.integers(8, 900))
def test_a_view_lies_in_the_image_and_is_a_pure_function(seed: int, view: int, width: int, height: int) -> None:
    box = view_of(seed, "train/a/1.png", view, width, height)
    assert box == view_of(seed, "train/a/1.png", view, width, height)
    assert 0 <= box.left < box.left + box.width <= width
    assert 0 <= box.top < box.top + box.height <= height


def test_areas_ratios_and_flips_are_distributed_as_torchvisions() -> None:
    boxes = [view_of(0, f"{i}", 0, 500, 400) for i in range(4000)]
    areas = np.array([box.width * box.height / 200_000 for box in boxes])
    ratios = np.array([box.width / box.height for box in boxes])
    assert areas.min() > SCALE[0] - 0.01
    assert areas.max() < SCALE[1] + 0.01
    image = Image.new("L", (500, 400))
    theirs = np.array([RandomResizedCrop.get_params(image, SCALE, RATIO)[2:] for _ in range(4000)])
    assert areas.mean() == pytest.approx(theirs.prod(1).mean() / 200_000, abs=0.01)
    assert ratios.mean() == pytest.approx((theirs[:, 1] / theirs[:, 0]).mean(), abs=0.02)
    assert ratios.min() > RATIO[0] - 0.01
    assert ratios.max() < RATIO[1] + 0.01
    assert np.mean([box.flip for box in boxes]) == pytest.approx(0.5, abs=0.03)


def test_views_of_one_image_differ_and_names_seeds_and_numbers_matter() -> None:
    boxes = {view_of(seed, name, view, 640, 480) for seed in range(3) for name in "ab" for view in range(5)}
    assert len(boxes) == 30


def test_extreme_shapes_fall_back_to_the_centre() -> None:
    box = view_of(0, "x", 0, 4000, 10)
    assert (box.width, box.height, box.top) == (13, 10, 0)
    assert box.left == (4000 - 13) // 2


def test_render_crops_mirrors_and_keeps_the_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    crop = render(image, View(4, 2, 16, 16, False), 16, "bicubic")
    assert np.array_equal(crop, pixels[2:18, 4:20])
    assert np.array_equal(render(image, View(4, 2, 16, 16, True), 16, "bicubic"), crop[:, ::-1])
