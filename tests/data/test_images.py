from __future__ import annotations

import io
import warnings
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from refusals import refuses
from torchvision.transforms import v2

from dhox.artefacts.common import Preprocessing
from dhox.data.images import UnreadableImageError, decode, model_input, normalise
from dhox.runtimes.predict import pixels

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def preprocessing(resize: int = 32, crop: int = 28, interpolation: str = "bilinear") -> Preprocessing:
    return Preprocessing(resize, crop, interpolation, MEAN, STD)


def saved(image: Image.Image, kind: str, **options: object) -> Image.Image:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return decode(file, "image")


def noise(width: int, height: int, channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8).squeeze()


def test_alpha_is_laid_over_black() -> None:
    rgba = noise(9, 7, 4)
    out = np.asarray(saved(Image.fromarray(rgba, "RGBA"), "PNG")).astype(int)
    expected = rgba[..., :3] * (rgba[..., 3:] / 255)
    assert abs(out - expected).max() <= 1


def test_palette_with_transparency_goes_through_rgba() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([250, 10, 20, 10, 200, 30] + [0] * 762)
    image.putpixel((1, 1), 1)
    out = np.asarray(saved(image, "PNG", transparency=0))
    assert out[0, 0].tolist() == [0, 0, 0]
    assert out[1, 1].tolist() == [10, 200, 30]


def test_sixteen_bits_are_shifted_by_eight() -> None:
    samples = np.array([[0, 255, 256, 65535], [513, 40000, 1, 32768]], np.uint16)
    out = np.asarray(saved(Image.fromarray(samples), "PNG"))
    assert np.array_equal(out[..., 0], samples >> 8)
    assert np.array_equal(out[..., 0], out[..., 2])


def test_grayscale_and_cmyk_become_rgb() -> None:
    gray = noise(5, 6, 1)
    assert np.array_equal(np.asarray(saved(Image.fromarray(gray), "PNG")), np.repeat(gray[..., None], 3, -1))
    assert saved(Image.fromarray(noise(5, 6, 4), "CMYK"), "TIFF").mode == "RGB"


def test_float_samples_are_refused_with_the_reason() -> None:
    with refuses("image", at="data.images.to_rgb", kind=UnreadableImageError):
        saved(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = Image.fromarray(noise(6, 4, 3))
    undo = {
        2: 0,
        3: 3,
        4: 1,
        5: 5,
        6: 2,
        7: 6,
        8: 4,
    }  # Pillow's transpose that makes the stored image from the upright one
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = saved(stored, "PNG", exif=exif)
    assert np.array_equal(np.asarray(out), np.asarray(upright))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncated_files_and_text_are_named(tmp_path: Path, kind: str) -> None:
    file = io.BytesIO()
    Image.fromarray(noise(64, 64, 3)).save(file, kind)
    (tmp_path / "cut.bin").write_bytes(file.getvalue()[: len(file.getvalue()) // 2])
    with refuses("cut.bin", "truncated", at="data.images.decode", kind=UnreadableImageError):
        decode(tmp_path / "cut.bin")
    (tmp_path / "text.png").write_text("no image")
    with refuses("text.png", "Pillow", at="data.images.decode", kind=UnreadableImageError):
        decode(tmp_path / "text.png")


def test_decompression_bomb_is_refused_without_decoding(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    with refuses("bomb.png", 400000000, at="data.images.decode", kind=UnreadableImageError):
        decode(tmp_path / "bomb.png")


@given(width=st.integers(20, 90), height=st.integers(20, 90), seed=st.integers(0, 99))
def test_model_input_equals_torchvision(width: int, height: int, seed: int) -> None:
    image = Image.fromarray(noise(width, height, 3, seed))
    for interpolation in ("bilinear", "bicubic"):
        ours = model_input(image, preprocessing(interpolation=interpolation))
        theirs = v2.CenterCrop(28)(v2.Resize(32, interpolation=v2.InterpolationMode(interpolation))(image))
        assert np.array_equal(ours, np.asarray(theirs))


def test_normalise_equals_torchvision() -> None:
    pixels = noise(8, 8, 3)[None]
    ours = normalise(pixels, preprocessing())
    theirs = v2.functional.normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255, MEAN, STD)
    assert ours.dtype == np.float32
    assert abs(ours - theirs.numpy()).max() < 1e-6


def test_preprocessing_survives_json() -> None:
    assert msgspec.convert(msgspec.to_builtins(preprocessing()), Preprocessing) == preprocessing()


def test_one_function_preprocesses_for_bench_predict_and_ledger() -> None:
    root = Path(__file__).parents[2]
    files = [path for folder in ("src/dhox", "bench", "export") for path in (root / folder).rglob("*.py")]
    assert len(files) > 40
    resampling = {path.relative_to(root).as_posix() for path in files if "Resampling" in path.read_text("utf-8")}
    assert resampling == {
        "src/dhox/data/images.py",
        "src/dhox/data/frames.py",  # pictures as a camera would film them, for proofs
        "export/rehearsal/alterations.py",  # pictures as a field may show them, for rehearsals
        "export/integrations/example.py",
    }  # example.py carries its own copy, held to this one
    callers = {path.relative_to(root).as_posix() for path in files if "model_input(" in path.read_text("utf-8")}
    assert callers == {
        "src/dhox/data/images.py", "src/dhox/data/frames.py", "bench/camera_models.py", "src/dhox/models/golden.py", "src/dhox/runtimes/predict.py", "export/untrained.py",
        "src/dhox/serve/work.py",
    }  # fmt: skip


def test_an_array_of_the_models_size_is_its_input_unless_it_is_to_be_resized() -> None:
    array = np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.uint8)
    same, larger = preprocessing(24, 24), preprocessing(28, 24)
    assert pixels(array, same) is array
    for each in (same, larger):
        np.testing.assert_array_equal(pixels(array, each), model_input(Image.fromarray(array), each))
    assert not np.array_equal(pixels(array, larger), array)
    with refuses("float32", at="runtimes.predict.opened"):
        pixels(array.astype(np.float32), same)
