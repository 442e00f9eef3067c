"""`decode: scaled`: JPEGs decoded at 1/2, 1/4 or 1/8 of their sides, by the same rule whatever form the file has."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from refusals import refuses

from dhox.artefacts.common import Preprocessing
from dhox.data.dataset import read_dataset
from dhox.data.images import UnreadableImageError, decode
from dhox.runtimes.predict import pixels_of

FULL = Preprocessing(32, 28, "bilinear", (0.5,) * 3, (0.5,) * 3)
SCALED = msgspec.structs.replace(FULL, decode="scaled")
SIDE = 64  # twice FULL.resize


def smooth(width: int, height: int) -> Image.Image:
    """A picture without detail, so that every scale shows the same."""
    ramp = Image.radial_gradient("L").resize((width, height))
    return Image.merge("RGB", (ramp, ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT), ramp.rotate(180)))


def saved(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **({"quality": 95} | options))
    return file.getvalue()


def size_of(content: bytes, jpeg_side: int | None = SIDE) -> tuple[int, int]:
    return decode(io.BytesIO(content), "image", jpeg_side).size


@given(st.integers(8, 40), st.integers(1, 400), st.integers(1, 400))
@example(40, 79, 400)
@example(40, 80, 400)
@example(40, 400, 159)
@example(40, 160, 161)
@example(40, 319, 400)
@example(40, 320, 321)
def test_the_largest_reduction_that_leaves_the_side(side: int, width: int, height: int) -> None:
    scale = max(s for s in (1, 2, 4, 8) if s == 1 or min(width, height) >= s * side)
    found = size_of(saved(Image.new("RGB", (width, height), "teal")), side)
    assert found == (-(-width // scale), -(-height // scale))
    if scale > 1:
        assert min(found) >= side


def test_the_contract_asks_for_twice_what_the_resize_makes() -> None:
    assert (FULL.jpeg_side, SCALED.jpeg_side) == (None, SIDE)
    assert size_of(saved(smooth(127, 300))) == (127, 300)
    assert size_of(saved(smooth(128, 300))) == (64, 150)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF"])
def test_other_formats_are_decoded_in_full(kind: str) -> None:
    assert size_of(saved(smooth(600, 700), kind)) == (600, 700)


def test_without_it_a_jpeg_is_decoded_in_full() -> None:
    assert size_of(saved(smooth(600, 700)), None) == (600, 700)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}), ("RGB", {"progressive": True}), ("RGB", {"subsampling": 0}), ("L", {}), ("CMYK", {}),
        ("RGB", {"kind": "MPO", "save_all": True, "append_images": [Image.new("RGB", (320, 300))]}),
    ],
)  # fmt: skip
def test_every_kind_of_jpeg_shows_the_same_picture_smaller(mode: str, options: dict[str, Any]) -> None:
    content = saved(smooth(320, 300).convert(mode), **options)
    small = decode(io.BytesIO(content), "image", SIDE)
    assert (small.mode, small.size) == ("RGB", (80, 75))
    reduced = decode(io.BytesIO(content), "image").reduce(4)
    assert abs(np.asarray(small, int) - np.asarray(reduced, int)).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(smooth(400, 280), exif=exif)
    small, full = decode(io.BytesIO(content), "image", SIDE), decode(io.BytesIO(content), "image")
    assert small.size == ((100, 70) if orientation < 5 else (70, 100))
    assert abs(np.asarray(small, int) - np.asarray(full.reduce(4), int)).max() <= 3


def test_a_truncated_jpeg_is_refused_at_every_scale() -> None:
    with refuses("image", "truncated", at="data.images.decode", kind=UnreadableImageError):
        size_of(saved(smooth(400, 300))[:2000])


def test_a_file_gives_the_same_pixels_in_every_form(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    content = saved(Image.fromarray(noise), quality=80)
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    (tmp_path / "list.csv").write_text("path,label,split\nimage.jpg,a,test\n")
    (tmp_path / "shards/test").mkdir(parents=True)
    with tarfile.open(tmp_path / "shards/test/0.tar", "w") as tar:
        tar.add(path, "0.jpg")
        label = tarfile.TarInfo("0.cls")
        label.size = 1
        tar.addfile(label, io.BytesIO(b"a"))
    listed = read_dataset(tmp_path / "list.csv")["test"]
    in_tar = read_dataset(tmp_path / "shards", only="test")["test"]
    forms = [path, str(path), content, *listed, *in_tar]
    assert len(forms) == 5
    pixels = pixels_of(forms, SCALED)
    assert all(np.array_equal(one, pixels[0]) for one in pixels)
    assert not np.array_equal(pixels[0], pixels_of([path], FULL)[0])


def test_what_the_caller_decoded_is_taken_as_it_is() -> None:
    content = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)))
    image = Image.open(io.BytesIO(content))
    in_full = pixels_of([content], FULL)
    assert np.array_equal(pixels_of([image], SCALED), in_full)
    assert np.array_equal(pixels_of([np.asarray(image)], SCALED), in_full)


def test_a_full_decode_is_not_written_and_what_has_none_is_full() -> None:
    plain = msgspec.json.decode(msgspec.json.encode(FULL))
    assert "decode" not in plain
    assert msgspec.convert(plain, Preprocessing) == FULL
    assert msgspec.json.decode(msgspec.json.encode(SCALED))["decode"] == "scaled"
    assert msgspec.convert(plain | {"decode": "scaled"}, Preprocessing) == SCALED
    with pytest.raises(msgspec.ValidationError, match="decode"):
        msgspec.convert(plain | {"decode": "half"}, Preprocessing)
