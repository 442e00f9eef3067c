"""An export is held against its models wherever it is opened, and its files against one another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from plain_files import write_json, write_npz
from refusals import refuses

from dhox.artefacts.arrays import read_npz
from dhox.artefacts.files import sha256
from dhox.cli.main import main
from dhox.distill.small_options import Chosen, RetuneOptions
from dhox.export.engines.engine import build_engines
from dhox.export.integrations.emit import emit
from dhox.export.options import Engines
from dhox.export.retuning.run import retune_export
from dhox.models.classifier import load
from dhox.models.export_directory import open_export
from dhox.models.verify import verify


@pytest.fixture
def export(own_line: Path) -> Path:
    return own_line / "runs/tiny/export"


def change(export: Path, edit: Callable[[dict], None]) -> None:
    content = json.loads((export / "manifest.json").read_text())
    edit(content)
    write_json(export / "manifest.json", content)


def swap_classes(content: dict) -> None:
    first, second = content["classes"][:2]
    first["name"], second["name"] = second["name"], first["name"]


def move_mean(content: dict) -> None:
    content["preprocessing"]["mean"] = [0.1, 0.2, 0.3]


def move_alpha(content: dict) -> None:
    content["fold"]["alpha"] = 0.987


def predict(export: Path) -> None:
    load(export, "cpu")


def bench(export: Path) -> None:
    from dhox.bench.bench_models import open_models

    open_models([export])


def retune(export: Path) -> None:
    retune_export(export, Path("retuned"), RetuneOptions(chosen=Chosen(alpha=0.5, beta=1.0)))


def triton(export: Path) -> None:
    emit(export, "triton")


def engines(export: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    build_engines(export, Engines(tensorrt=True))


@pytest.mark.parametrize("command", [predict, bench, retune, triton, engines])
@pytest.mark.parametrize(
    ("edit", "key"), [(swap_classes, "classes"), (move_mean, "preprocessing"), (move_alpha, "fold")]
)
def test_a_model_that_says_otherwise_than_the_manifest_is_opened_by_no_command(
    export: Path, command: Callable[[Path], None], edit: Callable[[dict], None], key: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from dhox.export.engines import engine

    monkeypatch.setattr(engine, "find_gpu", lambda trt: None)
    change(export, edit)
    with refuses("manifest.json", key, at="models.export_directory.check_metadata"):
        command(export)
    assert not Path("retuned").exists()


def test_swapped_classes_are_the_first_row_that_fails(export: Path) -> None:
    change(export, swap_classes)
    assert [row.what for row in verify(export, "cpu") if row.passed is False] == ["metadata", "metadata"]


def mend(export: Path, name: str) -> None:
    change(export, lambda content: content["files"].update({name: sha256(export / name)}))


@pytest.mark.parametrize(
    ("name", "edit", "at", "found"),
    [
        ("heads.npz", lambda a: a.update(ce_weight=a["ce_weight"][:, :-1]), "artefacts.arrays", "kd_weight"),
        ("heads.npz", lambda a: [a.pop(f"kd_{part}") for part in ("weight", "bias", "head")], "models", "manifest"),
        ("heads.npz", lambda a: a.update(kd_head=np.array("round")), "artefacts.heads", "kd_head"),
        ("val.npz", lambda a: a.update(labels=a["labels"] + 7), "artefacts.arrays", "labels"),
        ("val.npz", lambda a: a.update(ce_logits=a["ce_logits"] * np.nan), "artefacts.arrays", "ce_logits"),
        ("golden.npz", lambda a: a.update(input=a["input"].astype(np.int64)), "artefacts.arrays", "input"),
        ("golden.npz", lambda a: a.update(input=a["input"][:, 1:]), "artefacts.arrays", "input"),
        ("golden.npz", lambda a: a.update(sizes=a["sizes"] + 1), "artefacts.golden", "pixels"),
    ],
)
def test_arrays_that_do_not_belong_to_the_manifest_are_named(
    export: Path, name: str, edit: Callable[[dict[str, np.ndarray]], None], at: str, found: str
) -> None:
    arrays = read_npz(export / name)
    edit(arrays)
    write_npz(export / name, **arrays)
    mend(export, name)
    opened = open_export(export)
    reader = {"heads.npz": opened.heads, "val.npz": opened.validation, "golden.npz": opened.golden}[name]
    with refuses(name, found, at=at):
        reader()
    assert [row.file for row in verify(export, "cpu") if row.passed is False][:1] == [name]
    with refuses(name, found, at=at):
        retune_export(export, Path("retuned"))
    assert not Path("retuned").exists()


@pytest.mark.parametrize(
    ("edit", "at", "found"),
    [
        (lambda content: content["labels"].pop(), "artefacts.ledger", "labels"),
        (lambda content: content["labels"].__setitem__(0, 99), "models.export_directory.ledger", 99),
        (lambda content: content["rows"][0].update(stage="onnx_fp8"), "artefacts.record.decode", "rows[0].stage"),
        (lambda content: content.pop("names"), "artefacts.record.decode", "names"),
    ],
)
def test_a_ledger_of_another_export_is_named(export: Path, edit: Callable, at: str, found: object) -> None:
    content = json.loads((export / "ledger.json").read_text())
    edit(content)
    write_json(export / "ledger.json", content)
    mend(export, "ledger.json")
    with refuses("ledger.json", found, at=at):
        open_export(export).ledger()


def test_an_onnx_file_cut_short_behind_a_mended_hash_is_one_error(export: Path, own_line: Path) -> None:
    model = export / "model.onnx"
    model.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    digest = sha256(model)
    change(export, lambda content: content["artefacts"][0].update(sha256=digest))
    image = next((own_line / "data/test/bag").iterdir())
    for arguments in (["predict", str(export), str(image), "--device", "cpu"], ["retune", str(export), "--out", "r"]):
        with refuses("model.onnx", "ONNX", at="models.onnx_file.read_onnx"):
            main(arguments)
    assert not Path("r").exists()
