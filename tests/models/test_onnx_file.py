"""ONNX files are read before a runtime reads them, and what reaches out of its folder never gets there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from refusals import places, refuses

from dhox.errors import DhoxError
from dhox.models import onnx_file
from dhox.models.onnx_file import check_onnx, read_onnx
from dhox.models.onnx_tensor import Tensor
from dhox.runtimes.onnxruntime_api import open_session

VALUES = np.arange(4, dtype=np.float32)


def outside(location: str, name: str = "w") -> TensorProto:
    """A tensor of four floats whose values lie in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "0", "length": "16"}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def vector(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [4])


def model(tensor: TensorProto, place: str = "initializer") -> onnx.ModelProto:
    """y = x + w, with `tensor` as w, or somewhere else in the file."""
    own = helper.make_tensor("w", TensorProto.FLOAT, [4], VALUES)
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "inner", [], [vector("c")])
    sparse = onnx.SparseTensorProto(values=tensor, dims=[4])
    extra = {
        "attribute": [helper.make_node("Constant", [], ["c"], value=tensor)],
        "attribute list": [helper.make_node("Own", [], ["c"], domain="own", tensors=[tensor, tensor])],
        "subgraph": [helper.make_node("If", ["b"], ["c"], then_branch=inner, else_branch=inner)],
        "subgraph list": [helper.make_node("Own", [], ["c"], domain="own", graphs=[inner])],
        "sparse attribute": [helper.make_node("Constant", [], ["c"], sparse_value=sparse)],
    }.get(place, [])
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"]), *extra], "g", [vector("x")], [vector("y")],
        [tensor if place == "initializer" else own],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("own", 99)])
    made.ir_version = 10
    if place == "sparse initializer":
        made.graph.sparse_initializer.append(sparse)
    if place == "function":
        made.functions.append(helper.make_function("own", "f", [], ["c"], [inner.node[0]], made.opset_import[:1]))
    if place == "function default":
        made.functions.add(name="f", domain="own").attribute_proto.append(helper.make_attribute("t", tensor))
    if place == "training":
        made.training_info.add().algorithm.CopyFrom(inner)
    return made


PLACES = (
    "initializer", "sparse initializer", "attribute", "attribute list", "subgraph", "subgraph list", "sparse attribute",
    "function", "function default", "training",
)  # fmt: skip


def external_by_onnx(message: object) -> set[str]:
    """Every external location that the onnx package sees, found by reflection over all fields."""
    if isinstance(message, TensorProto):
        return {entry.value for entry in message.external_data if entry.key == "location"}
    found: set[str] = set()
    for field, value in message.ListFields():  # type: ignore[attr-defined]
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                found |= external_by_onnx(part)
    return found


def test_exported_files_read_as_the_onnx_package_reads_them(line: Path) -> None:
    for path in (line / "runs/tiny/export").glob("*.onnx"):
        found, whole = check_onnx(path), onnx.load(path)
        assert (found.ir, found.opset) == (whole.ir_version, whole.opset_import[0].version) == (10, 18)
        assert found.metadata == {entry.key: entry.value for entry in whole.metadata_props}
        assert found.inputs == [Tensor("image", "uint8", ("batch", 28, 28, 3))]
        assert (found.outputs, found.external) == ([Tensor("probs", "float32", ("batch", 4))], [])
        assert found.dhox("classes") == ["bag", "dress", "sandal", "trousers"]
        assert found.dhox("nothing") is None


def test_the_opset_is_that_of_the_default_domain() -> None:
    assert read_onnx(model(outside("w.bin")).SerializeToString(), "m").opset == 18


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_found_wherever_it_hides(place: str) -> None:
    made = model(outside("hidden.bin"), place)
    assert external_by_onnx(made) == {"hidden.bin"}
    assert set(read_onnx(made.SerializeToString(), "m").external) == {"hidden.bin"}


def beside(folder: Path) -> str:
    (folder / "w.bin").write_bytes(VALUES.tobytes())
    return "w.bin"


def below(folder: Path) -> str:
    (folder / "parts").mkdir()
    (folder / "parts/w.bin").write_bytes(VALUES.tobytes())
    return "parts/w.bin"


def through_a_link_that_stays(folder: Path) -> str:
    (folder / "real.bin").write_bytes(VALUES.tobytes())
    (folder / "w.bin").symlink_to("real.bin")
    return "w.bin"


@pytest.mark.parametrize("place", [beside, below, through_a_link_that_stays])
def test_weights_within_the_folder_are_loaded(tmp_path: Path, place: Callable[[Path], str]) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    path = folder / "m.onnx"
    path.write_bytes(model(outside(place(folder))).SerializeToString())
    (answer,) = open_session(path).run(None, {"x": np.ones(4, np.float32)})
    assert np.array_equal(answer, VALUES + 1)


def linked_file(folder: Path) -> str:
    (folder / "w.bin").symlink_to(folder.parent / "secret.bin")
    return "w.bin"


def linked_folder(folder: Path) -> str:
    (folder / "sub").symlink_to(folder.parent)
    return "sub/secret.bin"


@pytest.mark.parametrize(
    "place",
    [
        lambda folder: "../secret.bin",
        lambda folder: "sub/../../secret.bin",
        lambda folder: str(folder.parent / "secret.bin"),
        lambda folder: "/proc/self/environ",
        lambda folder: "w\0.bin",
        linked_file,
        linked_folder,
    ],
)
def test_weights_outside_the_folder_are_refused_before_the_runtime_sees_them(
    tmp_path: Path, place: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    def reached(*_: object, **__: object) -> None:
        raise AssertionError("ONNX Runtime was asked")

    monkeypatch.setattr(onnxruntime, "InferenceSession", reached)
    folder = tmp_path / "export"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(VALUES.tobytes())
    path = folder / "m.onnx"
    path.write_bytes(model(outside(place(folder))).SerializeToString())
    with refuses("m.onnx", "folder", at="models.onnx_file.check_onnx", fix="ONNX"):
        open_session(path)


def test_missing_weights_weights_without_a_folder_and_missing_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(model(outside("gone.bin")).SerializeToString())
    with refuses("m.onnx", "'gone.bin'", at="models.onnx_file.check_onnx", fix="directory"):
        check_onnx(tmp_path / "m.onnx")
    with refuses("'gone.bin'", "folder", at="models.onnx_file.check_onnx"):
        open_session(model(outside("gone.bin")).SerializeToString())
    with refuses("none.onnx", "No such file", at="models.onnx_file.check_onnx"):
        check_onnx(tmp_path / "none.onnx")


def test_every_truncated_file_is_refused() -> None:
    content = model(helper.make_tensor("w", TensorProto.FLOAT, [4], VALUES)).SerializeToString(deterministic=True)
    assert [out.name for out in read_onnx(content, "m").outputs] == ["y"]
    ends = set()
    for cut in range(len(content)):
        try:
            read_onnx(content[:cut], "m")
            ends.add(cut)
        except DhoxError as err:
            assert "models.onnx_file.read_onnx" in places(err)  # noqa: PT017
    assert len(ends) <= 1  # a cut before the last opset entry (another domain's) leaves a whole, shorter message


def test_sizes_are_bounded_on_both_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = model(helper.make_tensor("w", TensorProto.FLOAT, [4], VALUES)).SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    monkeypatch.setattr(onnx_file, "LARGEST_BYTES", len(content))
    check_onnx(path)
    monkeypatch.setattr(onnx_file, "LARGEST_BYTES", len(content) - 1)
    with refuses("m.onnx", f"{len(content):,}", at="models.onnx_file.check_onnx"):
        check_onnx(path)
    with refuses(f"{len(content):,}", at="models.onnx_file.read_onnx"):
        check_onnx(content)
    with path.open("wb") as file:
        file.truncate(2**31 + 1)  # a hole: no byte is read
    monkeypatch.setattr(onnx_file, "LARGEST_BYTES", 2**31)
    with refuses("m.onnx", "2,147,483,649", at="models.onnx_file.check_onnx"):
        check_onnx(path)


def wrapped(number: int, content: bytes) -> bytes:
    """One protobuf field that holds a block."""
    size, rest = bytearray(), len(content)
    while rest > 127:
        size.append(rest & 127 | 128)
        rest >>= 7
    return bytes([number << 3 | 2]) + bytes([*size, rest]) + content


@pytest.mark.parametrize(("levels", "fits"), [(30, True), (33, False), (5000, False)])
def test_a_graph_nested_without_end_is_refused(levels: int, fits: bool) -> None:
    content = wrapped(5, outside("deep.bin").SerializeToString())  # an initializer of the innermost graph
    for _ in range(levels):
        content = wrapped(1, wrapped(5, wrapped(6, content)))  # graph in attribute in node
    head = helper.make_model(helper.make_graph([], "g", [], [])).SerializeToString()
    if fits:
        assert read_onnx(head + wrapped(7, content), "m").external == ["deep.bin"]
        assert external_by_onnx(onnx.load_from_string(head + wrapped(7, content))) == {"deep.bin"}
    else:
        with refuses("m", "nested", at="models.onnx_file._walk_model"):
            read_onnx(head + wrapped(7, content), "m")


def test_a_field_number_that_runtimes_would_cut_to_32_bits_hides_nothing() -> None:
    hidden = bytes([0x9A | 0x80, 0x80, 0x80, 0x80, 0x10, 0x00])  # field 3, block, with bit 32 set
    with refuses("m", (1 << 29) + 3, at="models.protobuf.fields"):
        read_onnx(model(outside("w.bin")).SerializeToString() + hidden, "m")


def agrees_with_onnx(content: bytes) -> None:
    """Only DhoxError; and whatever the onnx package can read holds no external file that dhox has not seen."""
    try:
        seen = set(read_onnx(content, "m").external)
    except DhoxError:
        return
    try:
        whole = onnx.load_from_string(content)
    except Exception:  # protobuf's own exceptions
        return
    assert external_by_onnx(whole) <= seen


@given(st.binary(max_size=200))
@example(b"")
@example(json.dumps({"schema": "dhox.export/2"}).encode())
def test_random_bytes_never_crash(content: bytes) -> None:
    agrees_with_onnx(content)


@settings(max_examples=200)
@given(st.sampled_from(PLACES), st.data())
def test_damaged_models_never_crash_and_hide_nothing(place: str, data: st.DataObject) -> None:
    content = bytearray(model(outside("hidden.bin"), place).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[at] = data.draw(st.integers(0, 255))
        else:
            del content[at : at + data.draw(st.integers(1, 8))]
    agrees_with_onnx(bytes(content))
