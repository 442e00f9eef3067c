"""Faults planted in a finished run: `dhox export` finds each before it writes anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from plain_files import read_json, write_json
from quick_distill import DEMO_TEACHER
from run_example import rehash
from safetensors.numpy import load_file, save_file

from dhox.cli.main import main
from dhox.distill.results.retune import retune


def exported(run: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and message of an export of the run."""
    with pytest.raises(SystemExit) as end:
        main(["export", str(run), "--out", "e", "--max-accuracy-drop", "3"])
    assert not Path("e").exists() or end.value.code == 0
    printed = capsys.readouterr()
    return int(end.value.code or 0), printed.out + printed.err


def edit(path: Path, **changes: object) -> None:
    write_json(path, read_json(path) | changes)


def edit_preprocessing(run: Path, **changes: object) -> None:
    content = read_json(run / "run.json")
    edit(run / "run.json", preprocessing=content["preprocessing"] | changes)


def test_a_sound_run_is_exported(own_line: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exported(own_line / "runs/tiny", capsys)[0] == 0


@pytest.mark.parametrize(
    ("place", "arguments"),
    [
        ("runs/tiny", "report runs/tiny"),
        ("runs/tiny", "retune runs/tiny"),
        ("runs/tiny", "export runs/tiny --out e"),
        ("runs/tiny/export", "report runs/tiny"),
        ("runs/tiny/export", "export runs/tiny/export --emit triton"),
        ("runs/tiny/export", "retune runs/tiny/export"),
        ("runs/tiny/export", "verify runs/tiny/export"),
        ("runs/tiny/export", "bench runs/tiny/export --duration 0.05 --energy 0 --batch 1 --scope e2e"),
        ("runs/tiny/bench/here", "report runs/tiny/bench/here"),
        ("runs/tiny/bench/here", "compare runs/tiny/bench/here runs/tiny/bench/here"),
    ],
)
def test_what_was_stopped_between_its_last_renames_is_found_by_every_command(
    own_line: Path, monkeypatch: pytest.MonkeyPatch, place: str, arguments: str
) -> None:
    monkeypatch.chdir(own_line)
    Path(place).rename(f"{place}.partial")
    with pytest.raises(SystemExit) as end:
        main(arguments.split())
    assert not end.value.code
    assert Path(place).exists()
    assert not Path(f"{place}.partial").exists()


@pytest.mark.parametrize(
    "changes", [{"mean": [0.1, 0.1, 0.1]}, {"std": [0.9, 0.9, 0.9]}, {"interpolation": "nearest", "resize": 56}]
)
def test_another_preprocessing_is_found(
    own_line: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object]
) -> None:
    edit_preprocessing(own_line / "runs/tiny", **changes)
    code, said = exported(own_line / "runs/tiny", capsys)
    assert code == 1
    assert "preprocessing" in said


def test_other_weights_are_found(own_line: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = own_line / "runs/tiny/student.safetensors"
    state = load_file(path)
    name = next(name for name in state if name.endswith("conv1.weight"))
    save_file(state | {name: np.zeros_like(state[name])}, path)
    code, said = exported(own_line / "runs/tiny", capsys)
    assert code == 1
    assert "student.safetensors" in said


def test_images_that_changed_are_found(own_line: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (own_line / "data/val/bag").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    run = own_line / "runs/tiny"
    edit(run / "run.json", data=str(own_line / "data"))
    code, said = exported(run, capsys)
    assert code == 1
    assert "val/bag/" in said


def test_a_reader_that_swaps_channels_is_found(
    own_line: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dhox.export import run as module

    read = module.load_pixels
    shifted = lambda *given: np.roll(read(*given), 3, axis=2)  # noqa: E731 - gray images have equal channels
    monkeypatch.setattr(module, "load_pixels", shifted)
    assert exported(own_line / "runs/tiny", capsys)[0] == 1


@pytest.mark.parametrize(("precision", "noise", "code"), [("32-true", 0.003, 0), ("bf16-mixed", 0.05, 1)])
def test_stored_logits_are_fp32_whatever_the_precision_of_the_training(
    own_line: Path, capsys: pytest.CaptureFixture[str], precision: str, noise: float, code: int
) -> None:
    run = own_line / "runs/tiny"
    with np.load(run / "val.npz") as archive:
        arrays = dict(archive)
    spread = arrays["kd_logits"].std(axis=1).mean()
    wave = np.where(np.indices(arrays["kd_logits"].shape).sum(0) % 2, 1, -1).astype(np.float32)
    np.savez_compressed(run / "val.npz", **(arrays | {"kd_logits": arrays["kd_logits"] + noise * spread * wave}))
    edit(run / "run.json", training=read_json(run / "run.json")["training"] | {"precision": precision})
    rehash(run)
    assert exported(run, capsys)[0] == code


@pytest.mark.parametrize("name", ["val.npz", "test.npz"])
def test_logits_of_another_run_are_found(own_line: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    path = own_line / "runs/tiny" / name
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez_compressed(path, **(arrays | {"ce_logits": arrays["ce_logits"][::-1]}))
    code, said = exported(own_line / "runs/tiny", capsys)
    assert code == 1
    assert name in said


def test_a_stale_choice_is_found_and_made_again(own_line: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = own_line / "runs/tiny"
    before = (run / "selection.json").read_bytes()
    edit(run / "selection.json", alpha=0.05)
    code, said = exported(run, capsys)
    assert code == 1
    assert "selection.json" in said
    retune(run)
    assert (run / "selection.json").read_bytes() == before
    assert exported(run, capsys)[0] == 0


def test_a_choice_that_is_not_its_grids_best_is_found_with_its_hash_mended(
    line: Path, own_line: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = own_line / "runs/tiny"
    grid = read_json(run / "selection.json")["grid"]
    row, column = np.unravel_index(np.argmin(grid["score"]), np.shape(grid["score"]))
    edit(run / "selection.json", alpha=grid["alphas"][row], beta=grid["betas"][column])
    edit(run / "run.json", files={})
    code, said = exported(run, capsys)
    assert code == 1
    assert "selection.json" in said
    assert "grid" in said
    before = (line / "runs/tiny/selection.json").read_bytes()
    retune(run)
    assert (run / "selection.json").read_bytes() == before


def test_a_kill_at_the_first_write_does_not_block_the_output(own_line: Path) -> None:
    Path("e.partial").mkdir()
    Path("e.partial/.manifest.json.4711.tmp").write_bytes(b"{")
    with pytest.raises(SystemExit) as end:
        main(["export", str(own_line / "runs/tiny"), "--out", "e"])
    assert not end.value.code
    assert not Path("e.partial").exists()


def test_a_folder_with_other_hidden_files_is_never_taken(own_line: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("e").mkdir()
    Path("e/.note.tmp").write_text("mine")
    with pytest.raises(SystemExit) as end:
        main(["export", str(own_line / "runs/tiny"), "--out", "e"])
    assert end.value.code == 1
    assert Path("e/.note.tmp").read_text() == "mine"
    assert "never overwritten" in capsys.readouterr().err


def test_classes_swapped_in_run_json_are_found(own_line: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = own_line / "runs/tiny"
    first, second, *others = read_json(run / "run.json")["classes"]
    edit(run / "run.json", classes=[second | {"id": 0}, first | {"id": 1}, *others])
    code, said = exported(run, capsys)
    assert code == 1
    assert "run.json" in said
    assert first["name"] in said


def test_a_student_starts_from_no_other_weights(own_line: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = own_line / "runs/tiny"
    state = load_file(run / "student.safetensors")
    save_file({name: np.asarray(2 * tensor) for name, tensor in state.items()}, run / "student.safetensors")
    with pytest.raises(SystemExit) as end:
        main(["distill", str(own_line / "data"), "--teacher", DEMO_TEACHER, "--student", "test_resnet", "--image-size",
              "28", "--init-from", str(run), "--epochs", "1", "--out", "r", "--device", "cpu"])  # fmt: skip
    assert end.value.code == 1
    assert "student.safetensors" in capsys.readouterr().err
