from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from plain_files import read_json
from refusals import refuses
from safetensors.torch import save_file

from dhox.artefacts.arrays import read_npz
from dhox.artefacts.audit import Audit
from dhox.artefacts.record import read_record
from dhox.console import console
from dhox.distill.auditing.audit import audit
from dhox.distill.auditing.leaks_and_outliers import altered
from dhox.distill.small_options import AuditOptions
from dhox.distill.teachers.teacher import DEFAULT_TEMPLATES
from dhox.errors import UsageError
from dhox.options.declare import build
from dhox.reports.pages.audit import audit_page, write_audit_page
from dhox.reports.terminal import show

DEMO_TEACHER = f"local-dir:{Path(__file__).parents[2] / 'src/dhox/demo/teacher'}"


def run_audit(data: Path, out: str = "a", **options: object) -> dict[str, Any]:
    given = build(AuditOptions, **{"teacher": DEMO_TEACHER, "device": "cpu", "workers": 0} | options)
    content: dict[str, Any] = json.loads(msgspec.json.encode(audit(data, Path(out), given)))
    return content


def copied(data: Path, *without: str) -> Path:
    shutil.copytree(data, "data")
    for part in without:
        shutil.rmtree(Path("data") / part)
    return Path("data")


@pytest.fixture
def small_clip(tmp_path: Path) -> str:
    """The demo teacher's architecture with random weights."""
    folder = tmp_path / "small"
    folder.mkdir()
    config = json.loads((Path(DEMO_TEACHER.removeprefix("local-dir:")) / "open_clip_config.json").read_text())
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**config["model_cfg"]).state_dict(), folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def test_accuracies_are_of_the_val_split_and_agree_with_distill(line: Path) -> None:
    content = run_audit(line / "data", shots=8)
    assert content == read_json(Path("a/audit.json"))
    assert content["sets"] | {} == {
        "labelled": 32, "unlabelled": 64, "validation": 80, "test": 48, "shots": 8, "split_seed": 0,
    }  # fmt: skip
    assert (content["judges"]["n"], content["judges"]["cross_validated"]) == (80, False)
    zero_shot, probe = content["ways"]
    val = read_npz(line / "runs/tiny/val.npz")
    assert zero_shot["correct"] == (val["teacher_predictions"] == val["labels"]).sum()
    assert (zero_shot["n"], probe["n"], probe["way"]) == (80, 80, "linear probe")
    assert sum(row["correct"] for row in content["per_class"]) == zero_shot["correct"]
    assert sum(row["n"] for row in content["per_class"]) == 80
    assert {row["template"] for row in content["templates"]} == set(DEFAULT_TEMPLATES)
    correct = [row["correct"] for row in content["templates"]]
    assert correct == sorted(correct, reverse=True)
    wrong = sum(row["first_taken_for_second"] + row["second_taken_for_first"] for row in content["confusions"])
    assert wrong == 80 - zero_shot["correct"]


def test_one_template_is_the_ensemble(line: Path) -> None:
    content = run_audit(line / "data", template=["a photo of a {}."])
    assert content["templates"][0]["correct"] == content["ways"][0]["correct"]


def test_test_labels_are_never_read(line: Path) -> None:
    data = copied(line / "data")
    before = run_audit(data)
    for label, other in (("bag", "dress"), ("sandal", "trousers")):
        for a, b in ((label, "x"), (other, label), ("x", other)):
            (data / "test" / a).rename(data / "test" / b)
    after = run_audit(data, "b")
    for changing in ("finished_at", "near_copies"):
        before.pop(changing)
        after.pop(changing)
    assert after == before


def test_without_val_the_labelled_images_judge_and_nothing_is_held_out(line: Path) -> None:
    content = run_audit(copied(line / "data", "val"), shots=8)
    assert content["judges"] == {
        "n": 32, "cross_validated": True, "words": "32 labelled images of train; probes cross-validated",
    }  # fmt: skip
    assert content["sets"]["labelled"] == 32
    assert content["notes"] == []
    assert content["verdict"] == "cannot tell"
    assert "Only 32 labelled images judge" in content["advice"][-1]


def test_one_label_per_class_is_too_few_for_a_probe(line: Path) -> None:
    content = run_audit(line / "data", shots=1)
    assert [row["way"] for row in content["ways"]] == ["zero-shot"]
    assert any("No linear probe" in text for text in content["advice"])


def test_without_labels_there_is_no_accuracy_but_the_rest(line: Path) -> None:
    data = copied(line / "data", "val", "test")
    (data / "train").rename(data / "unlabelled")
    Path("classes.txt").write_text("bag\ndress\n")
    content = run_audit(data, classes=Path("classes.txt"))
    assert (content["ways"], content["per_class"], content["verdict"]) == ([], [], "cannot tell")
    assert content["near_copies"]["threshold"] is None
    assert (content["unlike"]["of"], content["unlike"]["n"], content["unlike"]["below"]) == ("unlabelled", 96, None)
    assert content["closest_texts"][0]["classes"] == ["bag", "dress"]
    assert "prefers-color-scheme" in write_audit_page(Path("a")).read_text()


def test_copies_are_counted_and_near_copies_come_first(line: Path) -> None:
    data = copied(line / "data")
    (data / "unlabelled").mkdir()
    shutil.copy(data / "val/bag/000.png", data / "unlabelled/exact.png")
    shutil.copy(data / "test/bag/000.png", data / "unlabelled/exact-of-test.png")
    with Image.open(data / "test/sandal/003.png") as image:
        pixels = np.asarray(image).astype(int)
    Image.fromarray(np.clip(pixels + 1, 0, 255).astype(np.uint8)).save(data / "unlabelled/near.png")
    near = run_audit(data)["near_copies"]
    assert (near["validation"]["exact"], near["test"]["exact"]) == (1, 1)
    assert (near["validation"]["n"], near["test"]["n"]) == (80, 48)
    best = near["test"]["pairs"][0]
    assert (best["image"], best["training_image"]) == ("test/sandal/003.png", "unlabelled/near.png")
    assert best["cosine"] > near["threshold"]
    assert near["test"]["near"] >= 1
    assert 0 <= near["recognised"] <= 1
    assert 0 <= near["control"] <= 1


def test_an_altered_copy_is_another_file_of_the_same_size() -> None:
    for size in ((40, 30), (2, 2), (1, 50)):
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
        assert altered(image).size == image.size


def test_images_of_another_kind_rank_low(line: Path) -> None:
    data = copied(line / "data")
    (data / "unlabelled").mkdir()
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (28, 28), dtype=np.uint8)
        Image.fromarray(noise).save(data / f"unlabelled/noise{i}.png")
    unlike = run_audit(data, shots=16)["unlike"]
    assert unlike["n"] == 32 + 3
    assert {f"unlabelled/noise{i}.png" for i in range(3)} <= {row["image"] for row in unlike["images"][:10]}
    places = [row["place"] for row in unlike["images"]]
    assert places == sorted(places)


def test_a_small_model_is_measured_on_the_same_images(line: Path, small_clip: str) -> None:
    content = run_audit(line / "data", small_clip=[small_clip])
    rows = {(row["model"] == small_clip, row["way"]): row for row in content["ways"]}
    assert len(rows) == 4
    assert {row["n"] for row in rows.values()} == {80}
    assert rows[True, "zero-shot"]["difference"] == pytest.approx(
        100 * (rows[True, "zero-shot"]["correct"] - rows[False, "zero-shot"]["correct"]) / 80
    )
    with refuses("--small-clip", at="distill.auditing.audit.audit", kind=UsageError):
        run_audit(line / "data", "b", small_clip=[DEMO_TEACHER])


def test_wrong_data_writes_nothing_and_foreign_folders_stay(line: Path) -> None:
    with refuses("missing", "exist", at="data.dataset.check_exists", kind=UsageError):
        run_audit(Path("missing"))
    assert not Path("a").exists()
    run_audit(line / "data")
    with refuses("a", at="artefacts.files.check_output", fix="--overwrite"):
        run_audit(line / "data")
    run_audit(line / "data", overwrite=True)
    Path("mine").mkdir()
    Path("mine/x").touch()
    with refuses("mine", "audit.json", at="artefacts.files.check_output", fix="--out"):
        run_audit(line / "data", "mine", overwrite=True)


def test_what_is_printed_fits_eighty_columns(line: Path, small_clip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run_audit(line / "data", small_clip=[small_clip])
    monkeypatch.setattr(console, "width", 80)
    with console.capture() as capture:
        show(audit_page(Path("a"), read_record(Path("a/audit.json"), Audit)))
    lines = capture.get().splitlines()
    assert len(lines) >= 20
    whole = [line for line in lines if max(map(len, line.split()), default=0) < 50]  # a path is never broken
    assert max(map(len, whole)) <= 80
