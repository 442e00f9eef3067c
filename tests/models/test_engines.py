"""Whether an engine fits a machine, and whether a user trusts it. No engine runs here: that needs a GPU."""

from __future__ import annotations

import hashlib
import json
import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
import pytest
from made_export import make_manifest
from refusals import named, refuses
from synthetic_engine import engine_content

import dhox
from dhox.artefacts.common import Preprocessing
from dhox.artefacts.engine import Engine
from dhox.errors import DhoxError
from dhox.models import engines
from dhox.models.export_directory import Export
from dhox.runtimes.cuda import Gpu, NoGpuError, gpu
from dhox.runtimes.tensorrt_api import TensorRT

ORIN = Gpu("Orin", "8.7")
L4, RTX_4090, H100 = Gpu("NVIDIA L4", "8.9"), Gpu("NVIDIA GeForce RTX 4090", "8.9"), Gpu("NVIDIA H100", "9.0")
T4 = Gpu("Tesla T4", "7.5")
BOARD, PC = "Linux aarch64", "Linux x86_64"
PLAN = b"a plan"


def content(**changes: Any) -> dict[str, Any]:
    """engine.json of an engine of PLAN that TensorRT 10.3 built on an L4."""
    made = engine_content(hashlib.sha256(PLAN).hexdigest(), "a" * 64) | {"finished_at": "2026-11-01"}
    made["engine"]["bytes"] = len(PLAN)
    made["device"] = {"gpu": "NVIDIA L4", "compute_capability": "8.9", "platform": PC}
    for path, value in changes.items():
        part, _, name = path.partition("__")
        if name:
            made[part][name] = value
        else:
            made[part] = value
    return made


def sidecar(**changes: Any) -> Engine:
    return msgspec.convert(content(**changes), Engine)


def tensorrt(version: str = "10.3.0", flavour: str = "tensorrt") -> TensorRT:
    return TensorRT(None, flavour, version)


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


NX, NANO = "Jetson Orin NX 16 GB", "Jetson Orin Nano 4 GB"
VERSIONS, HARDWARE = {"options__version_compatible": True}, {"options__hardware_compatible": True}
RTX = {
    "tensorrt": {"flavour": "tensorrt_rtx", "version": "1.7.1"},
    "device__gpu": None,
    "device__compute_capability": None,
}


@pytest.mark.parametrize(
    ("changes", "trt", "here", "system", "facts"),
    [
        ({}, tensorrt(), L4, PC, None),
        ({}, tensorrt(), RTX_4090, PC, ["NVIDIA L4", "NVIDIA GeForce RTX 4090"]),
        ({}, tensorrt(), H100, PC, ["8.9", "H100 (9.0"]),
        ({}, tensorrt("10.3.1"), L4, PC, ["10.3.0", "10.3.1"]),
        ({}, tensorrt("1.7.1", "tensorrt_rtx"), L4, PC, ["tensorrt", "tensorrt_rtx"]),
        ({}, tensorrt(), L4, BOARD, ["Linux x86_64", "Linux aarch64"]),
        (VERSIONS, tensorrt("10.16.1"), L4, PC, None),
        (VERSIONS, tensorrt("11.1.0"), L4, PC, None),
        (VERSIONS, tensorrt("10.2.9"), L4, PC, ["10.3.0", "10.2.9"]),
        (VERSIONS, tensorrt("10.16.1"), H100, PC, ["NVIDIA L4"]),
        (HARDWARE, tensorrt(), H100, PC, None),
        (HARDWARE, tensorrt(), T4, PC, ["8.0", "Tesla T4", "7.5"]),
        (HARDWARE, tensorrt("10.4.0"), H100, PC, ["10.3.0", "10.4.0"]),
        (HARDWARE, tensorrt(), ORIN, BOARD, ["Linux aarch64"]),
        (RTX, tensorrt("1.7.1", "tensorrt_rtx"), RTX_4090, PC, None),
        (RTX, tensorrt("1.7.1", "tensorrt_rtx"), T4, PC, ["8.0", "Tesla T4", "7.5"]),
        (RTX, tensorrt("1.7.2", "tensorrt_rtx"), RTX_4090, PC, ["1.7.1", "1.7.2"]),
    ],
)  # fmt: skip
def test_engine_of_another_machine_is_refused_with_the_reason(
    changes: dict[str, Any], trt: TensorRT, here: Gpu, system: str, facts: list | None
) -> None:
    found = engines.mismatch(sidecar(**deepcopy(changes)), trt, here, system)
    assert (found is None) == (facts is None), found
    assert all(named(fact, found) for fact in facts or ()), found


@pytest.mark.parametrize(
    ("built", "here", "fits"),
    [(NX, NX, True), (NX, NANO, False), (None, NANO, False), (NX, None, False), (None, None, True)],
)
def test_an_engine_of_another_module_with_the_same_gpu_name_is_refused(
    built: str | None, here: str | None, fits: bool
) -> None:
    made = sidecar(device__gpu=ORIN.name, device__compute_capability=ORIN.compute_capability, device__board=built)
    found = engines.mismatch(made, tensorrt(), ORIN, PC, here)
    assert (found is None) == fits
    assert fits or (str(built or "no Jetson") in str(found) and str(here or "no Jetson") in str(found))


def write_engine(folder: Path, content: dict[str, Any], plan: bytes = PLAN) -> Path:
    folder.mkdir(parents=True)
    (folder / "engine.json").write_text(json.dumps(content))
    (folder / "model.engine").write_bytes(plan)
    return folder


def test_only_the_builder_on_this_machine_is_trusted(tmp_path: Path) -> None:
    folder, made = write_engine(tmp_path / "e", content()), sidecar()
    with refuses(folder, at="models.engines.read_plan", fix=("dhox export", "--trust-engine")):
        engines.read_plan(folder, made, trust_engine=False)
    assert engines.read_plan(folder, made, trust_engine=True) == PLAN
    engines.record_trust(made.engine.sha256, folder)
    assert engines.read_plan(folder, made, trust_engine=False) == PLAN
    record = engines.trust_record(made.engine.sha256)
    assert (record.stat().st_mode & 0o777, record.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    record.chmod(0o622)  # anybody could have written it
    with refuses(folder, at="models.engines.read_plan", fix="--trust-engine"):
        engines.read_plan(folder, made, trust_engine=False)
    record.chmod(0o600)
    record.write_text("{}")
    with refuses(folder, at="models.engines.read_plan", fix="--trust-engine"):
        engines.read_plan(folder, made, trust_engine=False)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_a_record_of_another_user_counts_for_nothing(tmp_path: Path) -> None:
    engines.record_trust("b" * 64, tmp_path)
    assert engines.is_trusted("b" * 64)
    os.chown(engines.trust_record("b" * 64), 12345, 12345)
    assert not engines.is_trusted("b" * 64)


def test_a_hash_is_needed_but_not_enough(tmp_path: Path) -> None:
    engines.record_trust(sidecar().engine.sha256, tmp_path)
    other = write_engine(tmp_path / "other", content(), b"A plan")
    for trust in (False, True):
        with refuses(
            "model.engine", "engine.json", "SHA-256", at="models.engines.read_plan", fix=("EXPORT", "--tensorrt")
        ):
            engines.read_plan(other, sidecar(), trust)
    longer = write_engine(tmp_path / "longer", content(), PLAN + b"!")
    with refuses("model.engine", "engine.json", "size", at="models.engines.read_plan"):
        engines.read_plan(longer, sidecar(), trust_engine=True)
    (longer / "model.engine").unlink()
    with refuses("model.engine", "engine.json", "missing", at="models.engines.read_plan"):
        engines.read_plan(longer, sidecar(), trust_engine=True)


def test_sizes_are_bounded_before_anything_is_read(tmp_path: Path) -> None:
    huge = write_engine(tmp_path / "huge", content(engine__bytes=engines.LARGEST_PLAN + 1))
    with (huge / "model.engine").open("wb") as file:
        file.truncate(engines.LARGEST_PLAN + 1)  # sparse: no disk, no memory
    with refuses("model.engine", "engine.json", "size", at="models.engines.read_plan"):
        engines.read_plan(huge, sidecar(engine__bytes=engines.LARGEST_PLAN + 1), trust_engine=True)
    with (huge / "engine.json").open("wb") as file:
        file.truncate(engines.LARGEST_SIDECAR + 1)
    with refuses("engine.json", at="models.engines.read_sidecar"):
        engines.read_sidecar(huge)


def test_the_newest_engine_that_fits_is_found_and_the_others_explained(tmp_path: Path) -> None:
    here = {"device__platform": engines.platform_name()}
    for precision, name in (("fp32", "model.onnx"), ("fp16", "model.fp16.onnx")):
        (tmp_path / name).write_text(precision)
    manifest = make_manifest(
        tmp_path, ["a", "b"], Preprocessing(8, 8, "bilinear", (0.5,) * 3, (0.5,) * 3), default="fp16"
    )
    fp32_hash, fp16_hash = (entry.sha256 for entry in manifest.artefacts)
    here["onnx__sha256"] = fp16_hash
    export = Export(tmp_path, manifest)
    with refuses(tmp_path, "engine", at="models.engines.find_engine", fix="dhox export"):
        engines.find_engine(export, None, tensorrt(), L4)
    root = tmp_path / "engines"
    write_engine(root / "running", content(status="running", **here))
    write_engine(root / "later", content(schema="dhox.engine/3", **here))
    write_engine(root / "torn", {"schema": engines.ENGINE_SCHEMA, "status": "complete", "precision": "fp16"})
    write_engine(root / "board", content(device__platform="Linux riscv", finished_at="2027"))
    write_engine(root / "retrained", content(**(here | {"onnx__sha256": "d" * 64}), finished_at="2027"))
    with pytest.raises(DhoxError) as refused:
        engines.find_engine(export, None, tensorrt(), L4)
    for reason in ("board: it was built on Linux riscv", "later: .*dhox.engine/3", "retrained: it was built from another", "running: .*not finished", "torn: .*engine.json"):  # fmt: skip
        assert refused.match(reason)
    write_engine(root / "old", content(**here))
    new = write_engine(root / "new", content(finished_at="2026-11-02", **here))
    fp32 = write_engine(
        root / "fp32", content(**(here | {"onnx__sha256": fp32_hash}), precision="fp32", finished_at="2026-10-01")
    )
    assert engines.find_engine(export, None, tensorrt(), L4)[0] == new
    assert engines.find_engine(export, "fp32", tensorrt(), L4)[0] == fp32
    with refuses(tmp_path, "int8", at="models.engines.find_engine", fix="dhox export"):
        engines.find_engine(export, "int8", tensorrt(), L4)


def test_loading_without_a_gpu_says_so(line: Path) -> None:
    try:
        gpu()
    except NoGpuError:
        with refuses("CUDA", at="runtimes.cuda", kind=NoGpuError):
            dhox.load(line / "runs/tiny/export", device="tensorrt")  # type: ignore[operator]
    with refuses("'tpu'", at="models.classifier.load", fix=("auto", "cpu", "cuda", "tensorrt")):
        dhox.load(line / "runs/tiny/export", device="tpu")  # type: ignore[operator]
