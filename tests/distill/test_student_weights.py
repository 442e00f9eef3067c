"""Weights of a student from files that others made: prefixes, wrappers, averages, other names, other image sizes."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import timm
import torch
from refusals import refuses
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import nn

from dhox.distill.students.student import create_backbone

AT = "distill.students.student_weights"
State = dict[str, torch.Tensor]


def model(name: str = "test_resnet", classes: int = 7, **options: int) -> nn.Module:
    return timm.create_model(name, num_classes=classes, **options)


def below(prefix: str, state: State) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


def loaded(path: Path, content: object, name: str = "test_resnet", size: int | None = None) -> State:
    """The student's tensors, started from a file of this content."""
    torch.save(content, path)
    return create_backbone(name, str(path), size)[0].state_dict()


def same(found: State, source: State) -> bool:
    return all(torch.equal(tensor, source[key]) for key, tensor in found.items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: below("module.", state),
        lambda state: below("_orig_mod.", state),
        lambda state: below("module._orig_mod.", state) | {"n_averaged": torch.tensor(3)},
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(3)}}}},
        lambda state: {"model": below("module.", state), "args": argparse.Namespace(lr=0.1)},
        lambda state: {"model_ema": below("module.", state), "model": None},
        lambda state: {"state_dict": below("model.backbone.", state)},
    ],
)
def test_prefixes_and_wrappers_are_taken_off(tmp_path: Path, wrap: Callable, capfd: pytest.CaptureFixture) -> None:
    source = model().state_dict()
    assert same(loaded(tmp_path / "w.pth", wrap(source)), source)
    assert capfd.readouterr().out == ""


def test_of_several_students_the_moving_average_is_taken(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    raw, average = model().state_dict(), model().state_dict()
    found = loaded(tmp_path / "w.pth", {"state_dict": raw, "state_dict_ema": below("module.", average)})
    assert same(found, average)
    assert "taken: state_dict_ema.module, the moving average" in capfd.readouterr().out
    assert same(loaded(tmp_path / "flat.pth", below("model.", raw) | below("ema.", average)), average)
    with refuses("student", "teacher", "2", at=f"{AT}.choose"):
        loaded(tmp_path / "w.pth", {"student": raw, "teacher": average})
    with refuses("its top", "schema.model", at=f"{AT}.choose"):  # nor is every word with these letters an average
        loaded(tmp_path / "w.pth", raw | {"schema": {"model": average}})


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_position_embeddings_of_another_size_are_resampled_as_timm_does(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture
) -> None:
    source = model("test_vit", img_size=64).state_dict()
    path = tmp_path / f"w.{kind}"
    if kind == "pth":
        torch.save({"model": below("module.", source)}, path)
    else:
        save_file(source, path)
    found = create_backbone("test_vit", str(path), 96)[0].state_dict()
    expected = resample_abs_pos_embed(source["pos_embed"], new_size=[6, 6], old_size=[4, 4], num_prefix_tokens=1)
    assert found["pos_embed"].shape == (1, 37, 64)
    assert torch.equal(found.pop("pos_embed"), expected)
    assert same(found, source)
    assert "resampled by timm: pos_embed" in capfd.readouterr().out
    assert torch.equal(create_backbone("test_vit", str(path), 64)[0].state_dict()["pos_embed"], source["pos_embed"])
    assert capfd.readouterr().out == ""


def foreign(state: State) -> State:
    """Another code's names of the same tensors, in the same order."""
    return {f"net.{i}.{key.rpartition('.')[2]}": tensor for i, (key, tensor) in enumerate(state.items())}


@pytest.mark.parametrize("classes", [0, 7])
def test_names_of_another_code_are_taken_by_position(
    tmp_path: Path, classes: int, capfd: pytest.CaptureFixture
) -> None:
    source = model(classes=classes).state_dict()
    assert same(loaded(tmp_path / "w.pth", {"state_dict": foreign(source)}), source)
    said = capfd.readouterr().out
    assert "taken by position" in said
    assert "net.0.weight" in said


def test_a_position_proves_nothing_where_anything_differs(tmp_path: Path) -> None:
    state = foreign(model(classes=0).state_dict())
    names = list(state)
    short = {name: state[name] for name in names[:-1]}
    more = state | {"extra.running_mean": torch.ones(3)}
    number = next(name for name in names if name.endswith("num_batches_tracked"))
    scale, shift = next((a, b) for a, b in pairwise(names) if b.endswith("bias"))
    order = [{scale: shift, shift: scale}.get(name, name) for name in names]  # equal shapes: only their names tell
    for content in (short, more, state | {number: torch.tensor(1.0)}, {name: state[name] for name in order}):
        with refuses("net.0.weight", "test_resnet", len(content), at=f"{AT}.load_backbone_weights"):
            loaded(tmp_path / "w.pth", content)
    save_file(state, tmp_path / "w.safetensors")  # sorted by name, not by place
    with refuses("net.11.num_batches_tracked", len(state), at=f"{AT}.load_backbone_weights"):
        create_backbone("test_resnet", str(tmp_path / "w.safetensors"), None)


def test_names_of_a_models_authors_are_translated_by_timm(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    source = model("test_convnext").state_dict()
    words = [
        (r"^stem\.", "downsample_layers.0."), (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"\.blocks\.", "."), (r"\.conv_dw\.", ".dwconv."), (r"\.mlp\.fc(\d)\.", r".pwconv\1."),
        (r"^head\.norm\.", "norm."), (r"^head\.fc\.", "head."),
    ]  # fmt: skip
    authors = {}
    for key, tensor in source.items():
        for ours, theirs in words:
            key = re.sub(ours, theirs, key)
        authors[key] = tensor
    authors = dict(sorted(authors.items()))  # in no order that a position could use
    assert same(loaded(tmp_path / "w.pth", {"model": authors}, "test_convnext"), source)
    assert "translated by timm" in capfd.readouterr().out


def test_what_a_file_holds_is_said_beside_what_the_student_needs(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    count = len(model("resnet18", 0).state_dict())
    with refuses(
        path, "resnet18", count, "conv1.weight [64, 3, 7, 7]", len(model().state_dict()), "conv1.0.weight",
        at=f"{AT}.load_backbone_weights", fix="resnet18",
    ):  # fmt: skip
        loaded(path, {"model": model().state_dict()}, "resnet18")
    with refuses(path, "no tensors", at=f"{AT}.load_backbone_weights", fix="resnet18"):
        loaded(path, {"epoch": 3}, "resnet18")


def test_another_model_of_the_same_names_is_no_other_size(tmp_path: Path) -> None:
    source = model("resnet18", 0).state_dict() | {"conv1.weight": torch.ones(64, 1, 7, 7)}
    with refuses("[64, 1, 7, 7]", "[64, 3, 7, 7]", "resnet18", at=f"{AT}.load_backbone_weights"):
        loaded(tmp_path / "w.pth", source, "resnet18")
    patches = model("test_vit").state_dict()
    patches["patch_embed.proj.weight"] = torch.ones(64, 3, 8, 8)
    with refuses("patch_embed.proj.weight [64, 3, 8, 8]", at=f"{AT}.load_backbone_weights"):
        loaded(tmp_path / "w.pth", patches, "test_vit")
