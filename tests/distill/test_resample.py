from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resized_crop

from dhox.distill.images.packed import packed_side, to_packed_boxes
from dhox.distill.images.resample import KERNELS, axis_weights, model_views, resample
from dhox.distill.images.views import render, view_boxes, view_keys


def some_boxes(n: int, side: int) -> np.ndarray:
    return view_boxes(view_keys([str(i) for i in range(n)], 0), np.zeros(n, int), np.full((n, 2), side))


def torchvisions(pixels: torch.Tensor, boxes: np.ndarray, size: int, interpolation: str) -> torch.Tensor:
    views = []
    for image, (left, top, width, height, flip) in zip(pixels, boxes.tolist(), strict=True):
        view = resized_crop(
            image.permute(2, 0, 1).float(), top, left, height, width, [size, size], InterpolationMode(interpolation),
            antialias=True,
        ).clamp(0, 255)  # fmt: skip
        views.append(view.flip(-1) if flip else view)
    return torch.stack(views)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("side", "size"), [(28, 28), (64, 28), (90, 128), (150, 96)])
def test_views_equal_torchvisions_antialiased_crop_and_resize(side: int, size: int, interpolation: str) -> None:
    pixels = torch.randint(0, 256, (6, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    boxes = some_boxes(6, side)
    ours = resample(pixels, torch.from_numpy(boxes).float(), size, interpolation)
    assert float((ours - torchvisions(pixels, boxes, size, interpolation)).abs().max()) / 255 < 1e-3


TOLERANCES = {"bilinear": 1e-3, "bicubic": 2e-3, "lanczos": 2e-3}  # of the range, with weights in half precision


@pytest.mark.gpu
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_views_on_a_gpu_equal_torchvisions(interpolation: str) -> None:
    pixels = torch.randint(0, 256, (8, 256, 256, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    boxes = some_boxes(8, 256)
    ours = resample(pixels.cuda(), torch.from_numpy(boxes).float().cuda(), 224, interpolation).float().cpu()
    difference = float((ours - torchvisions(pixels, boxes, 224, interpolation)).abs().max()) / 255
    assert difference < TOLERANCES[interpolation]


@pytest.mark.parametrize("interpolation", TOLERANCES)
def test_half_precision_products_stay_within_the_tolerance(interpolation: str) -> None:
    """The arithmetic of the GPU path (float16 weights, float32 sums), emulated, against the float32 products."""
    for seed in range(5):
        pixels = torch.randint(0, 256, (4, 96, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
        parts = torch.from_numpy(some_boxes(4, 96)).float()
        flip = parts[:, 4] > 0
        rows = axis_weights(parts[:, 1], parts[:, 3], torch.zeros_like(flip), 96, 64, interpolation).half().float()
        columns = axis_weights(parts[:, 0], parts[:, 2], flip, 96, 64, interpolation).half().float()
        high = torch.einsum("bys,bsxc->byxc", rows, pixels.float()).half().float()
        views = torch.einsum("boq,byqc->bcyo", columns, high).half().float().clamp(0, 255)
        exact = resample(pixels, parts, 64, interpolation)
        assert float((views - exact).abs().max()) / 255 < TOLERANCES[interpolation]


def test_the_student_sees_the_crop_that_the_teacher_saw() -> None:
    """A packed image of the original's size, and Pillow on the original: equal up to the rounding to bytes."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    boxes = some_boxes(1, 40)
    theirs = render(Image.fromarray(pixels), boxes[0], 28, "bilinear")
    packed = torch.from_numpy(to_packed_boxes(boxes, np.array([[40, 40]]), 40))
    ours = resample(torch.from_numpy(pixels)[None], packed, 28, "bilinear")[0].permute(1, 2, 0)
    assert float((ours - torch.from_numpy(theirs.astype(np.float32))).abs().max()) <= 1.01


@settings(max_examples=60)
@given(
    side=st.integers(4, 60), size=st.integers(1, 60), kernel=st.sampled_from(sorted(KERNELS)), flip=st.booleans(),
    start=st.floats(0, 0.8), share=st.floats(0.05, 1),
)  # fmt: skip
def test_weights_sum_to_one_and_read_nothing_outside(
    side: int, size: int, kernel: str, flip: bool, start: float, share: float
) -> None:
    first = start * side
    length = max(share * (side - first), 0.5)
    weights = axis_weights(torch.tensor([first]), torch.tensor([length]), torch.tensor([flip]), side, size, kernel)
    assert torch.isfinite(weights).all()
    assert torch.allclose(weights.sum(-1), torch.ones(1, size), atol=1e-5)
    outside = torch.arange(side) < int(first)
    assert float(weights[..., outside].abs().sum()) == 0
    assert (
        float(weights[..., torch.arange(side) >= int(np.ceil(np.float32(first) + np.float32(length)))].abs().sum()) == 0
    )
    mirrored = axis_weights(torch.tensor([first]), torch.tensor([length]), torch.tensor([not flip]), side, size, kernel)
    assert torch.equal(weights.flip(1), mirrored)


def test_model_views_are_normalised_and_channels_last() -> None:
    pixels = torch.full((2, 8, 8, 3), 255, dtype=torch.uint8)
    boxes = torch.tensor([[0.0, 0, 8, 8, 0]]).repeat(2, 1)
    centre, spread = torch.tensor([[0.5, 0.25, 0.0], [0.5, 0.25, 1.0]]).view(2, 1, 3, 1, 1)
    images = model_views(pixels, boxes, 4, "bicubic", centre, spread)
    assert images.shape == (2, 3, 4, 4)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(images.mean((0, 2, 3)), torch.tensor([1.0, 3.0, 1.0]), atol=1e-5)


def test_the_packed_side_feeds_the_narrowest_crop_and_is_never_above_the_images() -> None:
    assert packed_side(224, np.array([(500, 375), (300, 200)])) == 320
    assert packed_side(224, np.array([(300, 200), (250, 300)])) == 300
    assert packed_side(28, np.array([(28, 28)])) == 28
