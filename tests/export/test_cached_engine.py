"""Engines of models without an export: TensorRT-RTX builds them for real, the session on a GPU is simulated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from refusals import refuses

from dhox.export.engines import cached_engine
from dhox.export.engines.cached_engine import OPTIONS, open_cached_engine
from dhox.export.engines.compile_engine import compile_onnx
from dhox.models import engines
from dhox.runtimes.cuda import Gpu
from dhox.runtimes.tensorrt_api import import_tensorrt, message_logger

trt = pytest.importorskip("tensorrt_rtx")


class Session:
    """In the place of EngineSession, which needs a GPU: keeps the plan, tells no layer."""

    def __init__(self, trt: Any, plan: bytes, names: tuple[str, str], facts: Any = None, name: str = "") -> None:
        self.plan, self.names, self.facts = plan, names, facts

    def layer_information(self) -> str:
        return '{"Layers": []}'

    def close(self) -> None:
        pass


def model(path: Path, batch: int | str, side: int | str = 8) -> Path:
    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["data"], ["scores"])],
        "foreign",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, 3, side, side])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 3, 1, 1])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.fixture(autouse=True)
def own_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cached_engine, "gpu", lambda: Gpu("synthetic", "8.9"))
    monkeypatch.setattr(cached_engine, "EngineSession", Session)


@pytest.mark.parametrize("batch", ["n", 2])
def test_a_model_is_built_for_its_batches(tmp_path: Path, batch: int | str) -> None:
    rtx = import_tensorrt("tensorrt_rtx")
    made = compile_onnx(model(tmp_path / "m.onnx", batch), "fp32", rtx, None, OPTIONS, message_logger(rtx))
    assert len(made.plan) > 100


def test_a_model_of_open_size_is_refused(tmp_path: Path) -> None:
    with refuses("m.onnx", "(-1, 3, -1, -1)", at="export.engines.compile_engine.compile_onnx"):
        open_cached_engine(model(tmp_path / "m.onnx", "n", "h"), "fp32", ("data", "scores"))


def test_an_engine_is_built_once_and_again_when_it_is_not_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds: list[Path] = []
    monkeypatch.setattr(
        cached_engine, "compile_onnx", lambda onnx, *rest: builds.append(onnx) or compile_onnx(onnx, *rest)
    )
    path = model(tmp_path / "m.onnx", "n")
    session = open_cached_engine(path, "fp32", ("data", "scores"))
    found = open_cached_engine(path, "fp32", ("data", "scores"))
    assert len(builds) == 1
    assert found.facts == session.facts
    assert (found.plan, found.names) == (session.plan, ("data", "scores"))  # type: ignore[attr-defined]

    assert session.facts.engine is not None
    folder = Path(session.facts.engine).parent
    assert folder.parent == tmp_path / "cache/dhox/engines"
    assert Path(session.facts.engine).read_bytes() == session.plan  # type: ignore[attr-defined]
    assert str(engines.read_sidecar(folder).golden_note).startswith("not run")
    (folder / "model.engine").write_bytes(session.plan + b" ")  # type: ignore[attr-defined]
    open_cached_engine(path, "fp32", ("data", "scores"))
    assert len(builds) == 2
    engines.trust_record(engines.read_sidecar(folder).engine.sha256).unlink()  # another user's, or copied here
    open_cached_engine(path, "fp32", ("data", "scores"))
    assert len(builds) == 3
    open_cached_engine(model(path, 2), "fp32", ("data", "scores"))  # another file under the same name
    assert len(builds) == 4
