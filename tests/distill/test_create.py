"""Students of every origin: timm, OpenCLIP towers, text initialisation, an earlier run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import open_clip
import pytest
import torch
from refusals import refuses
from run_example import example_run
from safetensors import safe_open

from dhox.artefacts.common import StudentSpec
from dhox.artefacts.record import write_record
from dhox.distill.options import Student
from dhox.distill.students.create import create_student
from dhox.distill.students.student import load_student, save_student
from dhox.distill.teachers.teacher import DEFAULT_TEMPLATES, load_teacher, split_name
from dhox.errors import DhoxError, UsageError

DEMO = Path(__file__).parents[2] / "src/dhox/demo/teacher"
TOWER = f"open_clip:local-dir:{DEMO}"
CPU = torch.device("cpu")


def create(name: str, weights: str = "pretrained", size: int | None = None, classes: str = "abc", **options: Any):
    names = list(classes)
    given = {"two_heads": True, "templates": ["a photo of {}."]} | options
    heads = {key: given.pop(key) for key in ("two_heads", "templates")}
    of_student = Student(student=name, student_weights=weights, image_size=size, **given)
    return create_student(of_student, names, prompts=names, device=CPU, **heads)


def save_run(run: Path, student: Any, spec: StudentSpec, classes: str) -> Path:
    run.mkdir()
    save_student(student, run)
    write_record(run / "run.json", example_run(spec, list(classes)))
    return run


def test_features_are_encode_image_without_normalisation() -> None:
    student, spec, preprocessing = create(TOWER)
    reference = open_clip.create_model(TOWER.removeprefix("open_clip:")).eval()
    images = torch.randn(3, 3, 28, 28)
    with torch.no_grad():
        z = student.eval().backbone(images)
        assert torch.equal(z, reference.encode_image(images))
        assert not torch.allclose(z.norm(dim=-1), torch.ones(3), atol=0.1)
    assert (preprocessing.crop, preprocessing.resize, preprocessing.interpolation) == (28, 28, "bicubic")
    assert preprocessing.mean == (0.286, 0.286, 0.286)
    assert preprocessing.std == (0.353, 0.353, 0.353)
    assert (spec.image_size, spec.kd_head) == (28, "linear")


@pytest.mark.parametrize("size", [28, 40])
@pytest.mark.parametrize("kind", ["linear", "cosine-paper", "cosine-code"])
def test_a_tower_survives_its_file_without_its_folder(tmp_path: Path, kind: str, size: int) -> None:
    shutil.copytree(DEMO, tmp_path / "teacher")
    student, spec, _ = create(f"open_clip:local-dir:{tmp_path / 'teacher'}", size=size, kd_head=kind)
    shutil.rmtree(tmp_path / "teacher")
    save_student(student, tmp_path)
    spec = msgspec.json.decode(msgspec.json.encode(spec), type=StudentSpec)
    again = load_student(tmp_path, spec)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        for ours, theirs in zip(student.eval()(images), again(images), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)
    with safe_open(tmp_path / "student.safetensors", "pt") as file:
        names = list(file.keys())
    assert {name.split(".")[0] for name in names} == {"backbone", "ce_head", "kd_head"}
    assert not [name for name in names if "token_embedding" in name or "logit_scale" in name or "text" in name]


def test_a_size_that_a_student_does_not_take_is_said_with_those_that_fit() -> None:
    with refuses("levit_128s", 100, at="distill.students.image_size.check_image_size", fix="--image-size"):
        create("levit_128s", "none", 100)


def test_position_embeddings_are_interpolated_for_another_size() -> None:
    own, other = create(TOWER)[0], create(TOWER, size=56)[0]
    before, after = (student.backbone.positional_embedding for student in (own, other))
    assert (before.shape[0], after.shape[0]) == (50, 197)
    assert torch.equal(before[0], after[0])  # the class token's
    assert torch.allclose(before[1:].mean(0), after[1:].mean(0), atol=0.05)
    assert torch.equal(own.backbone.conv1.weight, other.backbone.conv1.weight)


def test_towers_of_timm_take_another_size_and_attention_pools_say_so(tmp_path: Path) -> None:
    vision = {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear"}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": {"width": 16, "heads": 2, "layers": 1}}
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/open_clip_config.json").write_text(json.dumps({"model_cfg": config | {"custom_text": True}}))
    student, spec, preprocessing = create(f"open_clip:local-dir:{tmp_path / 'tiny'}", "none", 48)
    assert preprocessing.crop == 48
    assert student(torch.zeros(1, 3, 48, 48))[0].shape == (1, 3)
    save_student(student, tmp_path)
    assert load_student(tmp_path, spec).backbone.trunk.pos_embed.shape == student.backbone.trunk.pos_embed.shape

    resnet = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64}
    config |= {"vision_cfg": resnet}
    (tmp_path / "tiny/open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    assert create(f"open_clip:local-dir:{tmp_path / 'tiny'}", "none")[2].crop == 64
    with refuses(tmp_path / "tiny", at="distill.students.clip_tower.resized", fix="--image-size 96"):
        create(f"open_clip:local-dir:{tmp_path / 'tiny'}", "none", 96)


def test_text_initialisation_is_the_own_text_tower_and_answers_as_clip_does() -> None:
    student, _, _ = create(TOWER, kd_head="cosine-code", init_heads="text", templates=list(DEFAULT_TEMPLATES))
    teacher = load_teacher(TOWER.removeprefix("open_clip:"), CPU)
    text = teacher.encode_classes(list("abc"), list(DEFAULT_TEMPLATES))
    for head in (student.ce_head, student.kd_head):
        assert torch.allclose(head.weight, text, atol=1e-6)
        assert not head.bias.any()
    images = torch.randn(4, 3, 28, 28)
    with torch.no_grad():
        assert torch.allclose(student.eval()(images)[1], 100 * teacher.encode_images(images) @ text.T, atol=1e-3)
    paper, _, _ = create(TOWER, kd_head="cosine-paper", init_heads="text", templates=list(DEFAULT_TEMPLATES))
    assert torch.allclose(paper.kd_head.weight, text, atol=1e-6)
    single, _, _ = create(TOWER, two_heads=False, init_heads="text", templates=list(DEFAULT_TEMPLATES))
    assert torch.allclose(single.ce_head.weight, text, atol=1e-6)


def test_text_code_is_the_plain_mean_of_the_templates_as_the_authors_take_it() -> None:
    templates = ["a photo of a {}.", "{}", "art of the {}."]
    student, _, _ = create(TOWER, kd_head="cosine-code", init_heads="text-code", templates=templates)
    clip = open_clip.create_model(TOWER.removeprefix("open_clip:")).eval()
    tokenizer = open_clip.get_tokenizer(TOWER.removeprefix("open_clip:"))
    with torch.no_grad():
        means = [clip.encode_text(tokenizer([text.format(name) for text in templates])).mean(0) for name in "abc"]
        images = torch.randn(4, 3, 28, 28)
        z = clip.encode_image(images)
        ce, kd = student.eval()(images)
    expected = torch.stack(means)
    assert (expected.norm(dim=-1) - 1).abs().min() > 0.1
    for head in (student.ce_head, student.kd_head):
        assert torch.allclose(head.weight, expected, atol=1e-5)
        assert not head.bias.any()
    assert torch.allclose(ce, z @ expected.T, atol=1e-3)
    assert torch.allclose(kd, 100 * torch.nn.functional.normalize(z, dim=-1) @ expected.T, atol=1e-2)


@pytest.mark.parametrize(
    ("name", "weights", "options", "facts", "fix"),
    [
        ("test_resnet", "none", {"two_heads": False, "kd_head": "cosine-code"}, ["cosine-code"], "--method dho"),
        ("test_resnet", "none", {"init_heads": "text"}, ["--init-heads text", "test_resnet"], "open_clip"),
        ("test_resnet", "none", {"init_heads": "text-code"}, ["--init-heads text-code", "test_resnet"], "open_clip"),
        (TOWER, "none", {"init_heads": "text"}, ["--init-heads text"], "--student-weights none"),
        (TOWER, "none", {"init_heads": "text-code"}, ["--init-heads text-code"], "--student-weights none"),
        (TOWER, "weights.pt", {}, [TOWER], "--student-weights"),
    ],
)
def test_contradictory_options(name: str, weights: str, options: dict, facts: list, fix: str) -> None:
    with refuses(*facts, at="distill.students", fix=fix, kind=UsageError):
        create(name, weights, **options)


@pytest.mark.parametrize(
    ("name", "weights", "at", "facts", "fix"),
    [
        ("open_clip:ViT-B16/x", "pretrained", "teacher.split_name", ["student", "'ViT-B16'"], "ViT-B-16"),
        ("open_clip:ViT-B16", "none", "teacher.split_name", ["student", "'ViT-B16'"], "ViT-B-16"),
        ("open_clip:ViT-B-16", "pretrained", "teacher.split_name", ["ViT-B-16", "''"], "ViT-B-16/TAG"),
        ("open_clip:ViT-B-16/openai", "pretrained", "teacher.split_name", ["QuickGELU"], "ViT-B-16-quickgelu/openai"),
        ("open_clip:local-dir:/nowhere", "pretrained", "load_tower", ["/nowhere"], "open_clip:local-dir:PATH"),
        ("open_clip:ViT-S-32", "nothing.pt", "load_tower", ["nothing.pt"], "--student-weights FILE"),
    ],
)
def test_unknown_towers_name_the_closest(name: str, weights: str, at: str, facts: list, fix: str) -> None:
    with refuses(*facts, at=f"distill.{'teachers' if '.' in at else 'students.clip_tower'}.{at}", fix=fix):
        create(name, weights)


def test_every_quickgelu_tag_has_the_architecture_that_the_message_names() -> None:
    refused = 0
    for architecture in open_clip.list_models():
        for tag in open_clip.list_pretrained_tags_by_model(architecture):
            try:
                split_name(f"{architecture}/{tag}")
            except DhoxError as err:
                refused += 1
                better = str(err).split("Use ")[1].rstrip(".")
                assert split_name(better) == tuple(better.split("/"))
    assert refused > 20


def test_a_later_run_starts_from_an_earlier_one(tmp_path: Path) -> None:
    """Classes grow and change their order, the image size of a convolutional net differs."""
    first, spec, _ = create("test_resnet", "none", 28)
    run = save_run(tmp_path / "first", first, spec, "abc")
    torch.manual_seed(1)
    fresh = create("test_resnet", "none", 32, "cda")[0]
    torch.manual_seed(1)
    later = create("test_resnet", "pretrained", 32, "cda", init_from=run)[0]  # asks for no download
    earlier_state, state, fresh_state = (student.state_dict() for student in (first, later, fresh))
    for name, tensor in state.items():
        if name.startswith("backbone."):
            assert torch.equal(tensor, earlier_state[name])
        else:
            assert torch.equal(tensor[0], earlier_state[name][2])
            assert torch.equal(tensor[2], earlier_state[name][0])
            assert torch.equal(tensor[1], fresh_state[name][1])
    one_head = create("test_resnet", "none", 28, init_from=run, two_heads=False)[0]
    assert torch.equal(one_head.ce_head.weight, first.ce_head.weight)
    back = create(
        "test_resnet",
        "none",
        28,
        init_from=save_run(tmp_path / "one", one_head, StudentSpec("test_resnet", 28, 3, False), "abc"),
    )[0]
    assert torch.equal(back.ce_head.weight, first.ce_head.weight)
    assert not torch.equal(back.kd_head.weight, first.kd_head.weight)


def test_new_classes_of_a_tower_start_from_their_text(tmp_path: Path) -> None:
    first, spec, _ = create(TOWER, kd_head="cosine-code")
    run = save_run(tmp_path / "first", first, spec, "abc")
    later = create(TOWER, classes="abcd", kd_head="cosine-code", init_heads="text", init_from=run)[0]
    text = create(TOWER, classes="abcd", kd_head="cosine-code", init_heads="text")[0]
    assert torch.equal(later.kd_head.weight[:3], first.kd_head.weight)
    assert torch.equal(later.kd_head.weight[3], text.kd_head.weight[3])
    with refuses("--init-from", "cosine-code", at="distill.students.init_from", fix="--kd-head cosine-code"):
        create(TOWER, init_from=run)
    with refuses("--init-from", "backbone.positional_embedding", at="distill.students", fix="--image-size 28"):
        create(TOWER, size=56, kd_head="cosine-code", init_from=run)


def test_earlier_runs_that_do_not_fit_are_named(tmp_path: Path) -> None:
    first, spec, _ = create("test_resnet", "none", 28)
    run = save_run(tmp_path / "first", first, spec, "abc")
    with refuses("--init-from", "test_resnet", "resnet18", at="distill.students", fix="--student test_resnet"):
        create("resnet18", "none", 28, init_from=run)
    with refuses("nowhere", "exist", at="artefacts.run.read_run", kind=UsageError):
        create("test_resnet", "none", 28, init_from=tmp_path / "nowhere")
    (run / "student.safetensors").write_bytes(b"nothing")
    with refuses("student.safetensors", at="distill.students.init_from.earlier_student"):
        create("test_resnet", "none", 28, init_from=run)
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(content | {"status": "running"}))
    with refuses("first", at="artefacts.run.read_run", fix="dhox distill"):
        create("test_resnet", "none", 28, init_from=run)
