from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from refusals import refuses
from safetensors.torch import save_file

from dhox.data.dataset import Item
from dhox.distill.teachers.teacher import DEFAULT_TEMPLATES, load_teacher

DEMO_TEACHER = f"local-dir:{Path(__file__).parents[2] / 'src/dhox/demo/teacher'}"
CPU = torch.device("cpu")


def items(root: Path, n: int = 3) -> list[Item]:
    for i in range(n):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{i}.png")
    return [Item(f"{root}/{i}.png", f"{i}.png") for i in range(n)]


def test_the_embedded_teacher_loads_as_open_clip_itself_loads_it() -> None:
    teacher = load_teacher(DEMO_TEACHER, CPU)
    reference = open_clip.create_model(DEMO_TEACHER)
    assert all(torch.equal(a, b) for a, b in zip(teacher.model.parameters(), reference.parameters(), strict=True))
    assert teacher.scale == pytest.approx(reference.logit_scale.exp().item())
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    assert load_teacher(DEMO_TEACHER, CPU, 100.0).scale == 100


def test_text_embeddings_are_normalised_averaged_and_normalised_again() -> None:
    teacher = load_teacher(DEMO_TEACHER, CPU)
    ours = teacher.encode_classes(["bag", "ankle boot"], list(DEFAULT_TEMPLATES))
    assert len(DEFAULT_TEMPLATES) == 7
    for row, name in zip(ours, ["bag", "ankle boot"], strict=True):
        with torch.no_grad():
            each = teacher.model.encode_text(teacher.tokenizer([t.format(name) for t in DEFAULT_TEMPLATES]))
        mean = torch.nn.functional.normalize(each, dim=-1).mean(0)
        assert torch.allclose(row, torch.nn.functional.normalize(mean, dim=0), atol=1e-6)


@pytest.mark.parametrize("custom_text", [False, True])
def test_a_model_trained_with_sigmoids_loads_with_its_bias(tmp_path: Path, custom_text: bool) -> None:
    config = json.loads((Path(DEMO_TEACHER.removeprefix("local-dir:")) / "open_clip_config.json").read_text())
    model_config = config["model_cfg"] | {"init_logit_bias": -10, "custom_text": custom_text}
    model_config["text_cfg"] |= {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    kind = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    torch.manual_seed(0)
    model = kind(**{name: value for name, value in model_config.items() if name != "custom_text"})
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config | {"model_cfg": model_config}))
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    teacher = load_teacher(f"local-dir:{tmp_path}", CPU)
    assert isinstance(teacher.model, kind)
    assert teacher.logit_bias == -10
    assert load_teacher(DEMO_TEACHER, CPU).logit_bias is None
    text = teacher.encode_classes(["bag", "dress", "coat"], ["a {}"])
    images = torch.randn(4, 3, 28, 28)
    with torch.no_grad():
        theirs = teacher.model.get_logits(images, teacher.tokenizer(["a bag", "a dress", "a coat"]))[0]
    ours = teacher.scale * teacher.encode_images(images) @ text.T
    assert torch.allclose(ours - 10, theirs, atol=1e-3)
    assert torch.allclose(ours.softmax(-1), theirs.softmax(-1), atol=1e-4)


def test_a_missing_tokenizer_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    teacher = tmp_path / "teacher"
    shutil.copytree(DEMO_TEACHER.removeprefix("local-dir:"), teacher)
    config = json.loads((teacher / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "own"
    (teacher / "open_clip_config.json").write_text(json.dumps(config))
    with refuses("transformers", at="distill.teachers.teacher", fix="pip install transformers sentencepiece"):
        load_teacher(f"local-dir:{teacher}", CPU)


@pytest.mark.parametrize(
    ("name", "at", "facts", "fix"),
    [
        ("ViT-B16/x", "split_name", ["teacher", "'ViT-B16'"], "ViT-B-16"),
        ("ViT-B-16/laion2b", "split_name", ["ViT-B-16", "'laion2b'"], "laion2b_s34b_b88k"),
        ("local-dir:/nowhere", "load_teacher", ["'local-dir:/nowhere'"], "local-dir:PATH"),
    ],
)
def test_unknown_teachers_name_the_closest(name: str, at: str, facts: list, fix: str) -> None:
    with refuses(*facts, at=f"distill.teachers.teacher.{at}", fix=fix):
        load_teacher(name, CPU)


def test_a_pickled_or_scripted_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with refuses("evil.pt", at="distill.teachers.teacher.load_teacher"):
        load_teacher(f"RN50/{tmp_path / 'evil.pt'}", CPU)
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "scripted.pt"))
    with refuses("scripted.pt", at="distill.teachers.teacher.load_teacher"):
        load_teacher(f"RN50/{tmp_path / 'scripted.pt'}", CPU)
    assert not (tmp_path / "ran").exists()
