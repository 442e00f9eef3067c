"""The shipped list of students that work, and which of them stands for one that does not."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import pytest
import timm
from hypothesis import given
from hypothesis import strategies as st

from dhox.export.graphs.known_students import (
    LIST_FILE,
    KnownStudent,
    choose_another,
    family,
    is_known,
    known_students,
    nearest,
)

NAMES = ("resnet18", "resnet50", "resnext50_32x4d", "mobilenetv4_conv_small", "tinynet_e", "test_resnet", "test_vit")
KNOWN = st.builds(KnownStudent, st.sampled_from(NAMES), st.sampled_from([64, 224]), st.floats(0.1, 300))
ASKED = st.sampled_from([*NAMES, "mobilenetv3_large_100", "test_convnext", "open_clip:ViT-B-16/x"])


def test_the_list_names_timm_models_once_and_in_order() -> None:
    known = known_students()
    assert list(known) == sorted(known)
    assert len({(one.name, one.pixels) for one in known}) == len(known) > 20
    assert {one.name for one in known} <= set(timm.list_models())
    assert min(one.parameters_m for one in known) > 0


def test_known_is_a_name_at_a_size_whatever_its_weights() -> None:
    assert is_known("resnet18", 224)
    assert is_known("resnet18.a1_in1k", 224)
    assert not is_known("resnet18", 225)
    assert not is_known("resnet19", 224)
    assert not is_known("open_clip:ViT-B-16/openai", None)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("mobilenetv3_large_100", "mobilenet"), ("mobilenetv4_conv_small.e2400_r224_in1k", "mobilenet"),
        ("tf_efficientnet_lite0", "efficientnet"), ("resnet18", "resnet"), ("convnextv2_atto", "convnext"),
        ("vit_tiny_patch16_224", "vit"), ("open_clip:ViT-B-16/x", "vit"), ("levit_128s", "levit"), ("7b", "7b"),
    ],
)  # fmt: skip
def test_a_family_is_what_a_name_begins_with(name: str, wanted: str) -> None:
    assert family(name) == wanted


@pytest.mark.parametrize(
    ("name", "parameters_m", "wanted"),
    [
        ("halonet26t", 10.5, ("halonet26t", 256)),  # itself, at another size
        ("resnet34", 21.3, ("resnet18", 64)),  # its family, whatever the size of others
        ("resnest14d", 8.6, ("resnet18", 64)),  # a name like it: resnest, resnet
        ("vgg11", 2.4, ("lcnet_050", 64)),  # else by parameters
        ("vgg11", 9.0, ("halonet26t", 256)),
        ("test_convnext", 30.0, ("test_resnet", 28)),  # students for tests stand for each other
    ],
)
def test_the_nearest(name: str, parameters_m: float, wanted: tuple[str, int]) -> None:
    known = (
        KnownStudent("halonet26t", 256, 10.5), KnownStudent("resnet18", 64, 11.2), KnownStudent("resnet50", 64, 100.0),
        KnownStudent("lcnet_050", 64, 2.3), KnownStudent("test_resnet", 28, 0.4),
    )  # fmt: skip
    found = nearest(name, 64, parameters_m, known)
    assert found is not None
    assert (found.name, found.pixels) == wanted


@given(st.lists(KNOWN, max_size=6), ASKED, st.sampled_from([64, 224]), st.floats(0.1, 300), st.randoms())
def test_the_nearest_is_another_of_its_kind_and_none_is_nearer(
    known: list[KnownStudent], name: str, pixels: int, parameters_m: float, random: object
) -> None:
    found = nearest(name, pixels, parameters_m, tuple(known))
    tiny = name.startswith("test_")
    fits = [one for one in known if (one.name, one.pixels) != (name, pixels) and one.name.startswith("test_") == tiny]
    assert (found is None) == (not fits)
    if found is None:
        return
    assert found in fits
    of_it = [one for one in fits if one.name == name]
    of_family = [one for one in fits if family(one.name) == family(name)]
    closest = of_it or of_family or fits
    if of_it or of_family:
        assert found in closest
        ratios = [abs(math.log(one.parameters_m / parameters_m)) for one in closest]
        assert abs(math.log(found.parameters_m / parameters_m)) == min(ratios)
    random.shuffle(known)  # type: ignore[attr-defined]
    again = nearest(name, pixels, parameters_m, tuple(known))
    assert again is not None
    assert (again.name, again.pixels) == (found.name, found.pixels)


def test_the_advice_names_one_that_is_known() -> None:
    said = choose_another("resnet18", 225, 11.2)
    assert "resnet18 (11.2 M parameters, measured at 224 pixels)" in said


def test_the_benchmark_writes_what_works_and_keeps_the_rest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    families = importlib.import_module("families")
    before, place = LIST_FILE.read_bytes(), tmp_path / "known.json"
    monkeypatch.setattr(families, "LIST_FILE", place)
    families.write_known([])
    assert place.read_bytes() == before  # the shipped file is in the form that is written
    rows = [
        families.Row("resnet18:224", 11.3, works=True), families.Row("resnet18:64", 11.2, reason="x"),
        families.Row("a:32", 2.0, works=True),
    ]  # fmt: skip
    families.write_known(rows)
    text = place.read_text()
    assert '{"name":"resnet18","pixels":224,"parameters_m":11.3}' in text
    assert '{"name":"a","pixels":32,"parameters_m":2.0}' in text
    assert '"resnet18","pixels":64' not in text
    assert len(text.splitlines()) == len(before.splitlines())
