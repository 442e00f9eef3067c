"""The parts of a remote bench that need no connection."""

from __future__ import annotations

import ast
import errno
import hashlib
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from dhox.artefacts.files import BENCH_SCHEMA
from dhox.bench.bench_models import open_subjects
from dhox.bench.remote import board, board_environment
from dhox.bench.remote.answers import BENCH, FINDINGS, LOOK, OUT, PROBE, STATUS, fits, read_answer
from dhox.bench.remote.board_environment import (
    Target,
    dhox_files,
    needed_by,
    requirements,
    target_of,
    unmet,
    wheel_folder,
)
from dhox.bench.remote.bundle import Shipment, add_images, add_models
from dhox.bench.remote.link import RESULT
from dhox.bench.remote.run import (
    bench_remote,
    benches_of,
    check_one_data,
    describe,
    failed,
    replace_texts,
    said_to_remain,
)
from dhox.bench.sweep.footprint import measure_footprint
from dhox.cli.common import option_words
from dhox.cli.main import main
from dhox.data.dataset import Item, read_dataset
from dhox.errors import DhoxError, GateFailedError, UsageError
from dhox.reports.remote_tables import rows

ORIN = Target((3, 10), "aarch64", (2, 35))
EMPTY: dict[str, Any] = {
    key: {dict: {}, list: [], type: ""}[type(shape)] for key, shape in BENCH.items()
} | {"schema": BENCH_SCHEMA, "status": "complete", "latency": []}  # fmt: skip
ORIN_PROBE: dict[str, Any] = {
    "system": "Linux", "machine": "aarch64", "libc": ["glibc", "2.35"], "python": {"version": [3, 10, 12]},
    "onnxruntime": {"works": False, "found": "ModuleNotFoundError"},
}  # fmt: skip


def test_the_board_program_needs_the_standard_library_alone() -> None:
    tree = ast.parse(Path(board.__file__).read_text(encoding="utf-8"), feature_version=(3, 10))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


def board_process(
    tmp_path: Path, grace: dict[int, float], command: list[str], patience_s: float = board.PATIENCE_S
) -> subprocess.Popen[bytes]:
    code = f"from dhox.bench.remote import board; board.GRACE_S = {grace!r}; board.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"DHOX_REMOTE_CACHE": str(tmp_path)},
    )  # fmt: skip
    assert process.stdin is not None
    arguments = {"command": command, "environment": {}, "run": "r", "patience_s": patience_s}
    request = {"action": "run", "arguments": arguments}
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    return process


def group_of(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    return int(json.loads(process.stdout.readline().removeprefix(board.MARK))["out"])


def is_gone(group: int) -> bool:
    """Whether no process of the group runs; one that was killed may still wait for init to count it."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state, _, found = (process / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(found) == group and state != "Z":
            return False
    return True


def test_what_ignores_the_end_of_the_link_is_killed(tmp_path: Path) -> None:
    stubborn = ["bash", "-c", "trap '' INT TERM HUP; echo $$; while true; do sleep 0.1; done"]
    grace = {int(signal.SIGINT): 0.0, int(signal.SIGTERM): 0.3, int(signal.SIGKILL): 0.6}
    process = board_process(tmp_path, grace, stubborn)
    group = group_of(process)
    start = time.monotonic()
    output, _ = process.communicate(timeout=20)
    assert time.monotonic() - start > 0.5
    assert json.loads(output.splitlines()[-1].removeprefix(board.MARK))["status"] == -signal.SIGKILL
    assert is_gone(group)


def test_a_command_may_clean_up_and_speak_after_the_end_of_the_link(tmp_path: Path) -> None:
    tidy = ["bash", "-c", "trap 'sleep 0.5; echo restored; exit 7' INT; echo $$; sleep 100"]
    process = board_process(tmp_path, {int(n): s for n, s in board.GRACE_S.items()}, tidy)
    group_of(process)
    output, _ = process.communicate(timeout=20)
    answers = [json.loads(line.removeprefix(board.MARK)) for line in output.splitlines()]
    assert answers == [{"out": "restored"}, {"status": 7, "ended": "end of input"}]


def test_what_a_finished_command_left_behind_is_ended(tmp_path: Path) -> None:
    process = board_process(tmp_path, {}, ["bash", "-c", "echo $$; sleep 100 & exit 0"])
    group = group_of(process)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline().removeprefix(board.MARK))["status"] == 0
    process.communicate(timeout=20)
    assert is_gone(group)


def test_unused_files_go_and_used_ones_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DHOX_REMOTE_CACHE", str(tmp_path))
    for folder in ("blobs", "trees/used", "trees/old", "incoming", "runs/old"):
        (tmp_path / folder).mkdir(parents=True)
    for blob in ("used", "fresh", "unused"):
        (tmp_path / "blobs" / blob).write_text(blob)
    os.link(tmp_path / "blobs/used", tmp_path / "trees/used/file")
    long_ago = time.time() - board.KEEP_S - 60
    for path in ("blobs/used", "blobs/unused", "trees/old", "runs/old"):
        os.utime(tmp_path / path, (long_ago, long_ago))
    board.clean()
    assert sorted(path.name for path in (tmp_path / "blobs").iterdir()) == ["fresh", "used"]
    assert [path.name for path in (tmp_path / "trees").iterdir()] == ["used"]
    assert list((tmp_path / "runs").iterdir()) == []


def place(trees: dict[str, dict[str, bytes]], folder: Path, environment: list[str] | None = None) -> None:
    """Put the blobs there that `missing` asks for, then the trees."""
    blobs = {hashlib.sha256(data).hexdigest(): data for files in trees.values() for data in files.values()}
    (folder / "blobs").mkdir(exist_ok=True)
    for name in blobs:
        if board.content_hash(folder / "blobs" / name) != name:
            (folder / "new").write_bytes(blobs[name])
            (folder / "new").replace(folder / "blobs" / name)
    board.place(
        {key: {path: hashlib.sha256(data).hexdigest() for path, data in files.items()} for key, files in trees.items()},
        environment,
    )


def no_links(*paths: object) -> None:
    """os.link on a FAT disk."""
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("linked", [True, False])
def test_a_damaged_store_heals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool) -> None:
    monkeypatch.setenv("DHOX_REMOTE_CACHE", str(tmp_path))
    if not linked:  # as on a FAT disk
        monkeypatch.setattr(os, "link", no_links)
    trees = {"key": {"a": b"first", "b/c": b"second", "b/d": b"third"}}
    place(trees, tmp_path)
    tree = tmp_path / "trees/key"
    (tree / "engine").write_bytes(b"built there")
    os.truncate(tree / "a", 0)
    (tree / "b/c").write_bytes(bytes(6))
    (tree / "b/d").unlink()
    place(trees, tmp_path)
    assert {path.relative_to(tree).as_posix(): path.read_bytes() for path in tree.rglob("*") if path.is_file()} == {
        **trees["key"], "engine": b"built there",
    }  # fmt: skip
    assert list((tmp_path / "incoming").iterdir()) == []


def test_two_first_runs_at_once_both_place_their_trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DHOX_REMOTE_CACHE", str(tmp_path))
    files = {f"folder/{number}": str(number).encode() for number in range(300)}
    place({"other": files}, tmp_path)  # the blobs
    tree = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    request = json.dumps({"action": "place", "arguments": {"trees": {"key": tree}}}).encode() + b"\n"
    both = [
        subprocess.Popen([sys.executable, board.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in "ab"
    ]
    for process in both:
        assert process.stdin is not None
        process.stdin.write(request)
        process.stdin.flush()
    answers = [json.loads(process.communicate()[0].removeprefix(board.MARK)) for process in both]
    assert answers == [{"trees": str(tmp_path / "trees")}] * 2
    assert {path.name for path in (tmp_path / "trees/key/folder").iterdir()} == {str(number) for number in range(300)}


def test_what_was_prepared_is_remembered_for_one_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DHOX_REMOTE_CACHE", str(tmp_path))
    assert board.remembered() == []
    place({"key": {"a": b"x"}}, tmp_path, ["key"])
    assert board.remembered() == ["key"]
    (kept,) = tmp_path.glob("environment-*")
    assert kept.name == "environment-{}.{}.json".format(*sys.version_info)
    for damage in ("", "{", "{}", "\0" * 8):
        kept.write_text(damage)
        assert board.remembered() == []


def test_a_store_that_pythonpath_cannot_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DHOX_REMOTE_CACHE", str(tmp_path / "a:b"))
    with pytest.raises(board.BoardError, match="has a colon. Set DHOX_REMOTE_CACHE there"):
        board.probe()


@pytest.mark.parametrize("run", ["", ".", "..", "../x", "/etc", "a/../../x"])
def test_only_a_run_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: str) -> None:
    monkeypatch.setenv("DHOX_REMOTE_CACHE", str(tmp_path))
    with pytest.raises(board.BoardError, match="leads out of its folder"):
        board.forget(run)


def test_a_killed_watcher_takes_its_bench_along_and_keeps_the_machine_until_then(tmp_path: Path) -> None:
    tidy = ["bash", "-c", "trap 'sleep 1; exit' INT; echo $$; while true; do sleep 0.05; done"]
    process = board_process(tmp_path, {}, tidy)
    group = group_of(process)
    process.kill()
    process.wait()
    assert is_held()
    end = time.monotonic() + 10
    while not is_gone(group):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert not is_held()


def is_held() -> bool:
    """Whether somebody holds this machine's lock."""
    with socket.socket(socket.AF_UNIX) as other:
        return not board.take(other)


@pytest.mark.parametrize(
    ("patience", "end", "ended", "said"),
    [
        (60, lambda process: process.stdin.close(), "end of input", []),
        (60, lambda process: process.terminate(), "signal 15", ["No longer waiting: signal 15."]),
        (1, lambda process: None, "silence", ["No longer waiting: nothing was heard over the connection for 1 seconds."]),
    ],
)  # fmt: skip
def test_a_link_that_ends_while_another_bench_measures_is_answered(
    tmp_path: Path, patience: int, end: Callable[[subprocess.Popen[bytes]], None], ended: str, said: list[str]
) -> None:
    with socket.socket(socket.AF_UNIX) as holder:
        assert board.take(holder)
        process = board_process(tmp_path, {}, ["touch", "started"], patience)
        assert process.stdout is not None
        assert b"waiting for its end" in process.stdout.readline()
        end(process)
        answers = [json.loads(line.removeprefix(board.MARK)) for line in process.stdout]
        process.wait(60)
    assert answers == [*({"out": line} for line in said), {"status": board.INTERRUPTED, "ended": ended}]
    assert list(tmp_path.rglob("started")) == []


def test_what_holds_the_machine_runs_benches_that_do_not_wait(tmp_path: Path) -> None:
    code = "from dhox.bench.machine_lock import one_at_a_time\nwith one_at_a_time():\n    print('mine', flush=True)"
    process = board_process(tmp_path, {int(n): s for n, s in board.GRACE_S.items()}, [sys.executable, "-c", code])
    assert process.stdout is not None
    first = json.loads(process.stdout.readline().removeprefix(board.MARK))
    process.communicate(timeout=60)
    assert first == {"out": "mine"}


def test_no_tree_leads_out_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DHOX_REMOTE_CACHE", str(tmp_path / "store"))
    with pytest.raises(board.BoardError, match="leads out of its folder"):
        board.place({"key": {"../../x": "blob"}})


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"DHOX_REMOTE_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/dhox"),
        ({"HOME": "/c"}, "/c/.cache/dhox"),
    ],
)
def test_where_the_store_is(variables: dict[str, str], place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DHOX_REMOTE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert board.store() == Path(place)


# Packages.


def test_the_target_of_a_jetson() -> None:
    assert target_of("orin", ORIN_PROBE) == ORIN
    own = {"works": True, "found": "1.18.0 CUDAExecutionProvider"}
    assert target_of("orin", ORIN_PROBE | {"onnxruntime": own}).own_onnxruntime == "1.18.0"


@pytest.mark.parametrize("odd", [{"system": "Darwin"}, {"machine": "riscv64"}, {"libc": ["", ""]}])
def test_a_board_without_wheels_is_refused(odd: dict[str, Any]) -> None:
    with pytest.raises(DhoxError, match="knows wheels for Linux with glibc on aarch64 and x86_64"):
        target_of("odd", ORIN_PROBE | odd)


def test_tags_go_from_the_boards_glibc_down() -> None:
    tags = ORIN.tags()
    assert tags[0] == "manylinux_2_35_aarch64"
    assert {"manylinux_2_28_aarch64", "manylinux2014_aarch64", "manylinux_2_17_aarch64"} <= set(tags)
    assert not any("2_36" in tag or "x86" in tag for tag in tags)
    assert "manylinux1_x86_64" in replace(ORIN, machine="x86_64").tags()


def test_requirements_are_those_of_the_board_and_not_of_this_python() -> None:
    old, new = requirements(ORIN), requirements(replace(ORIN, python=(3, 12)))
    assert [text for text in old if text.startswith("tomli")]
    assert not [text for text in new if text.startswith("tomli")]
    assert [text for text in old if text.startswith("onnxruntime")]
    own = requirements(replace(ORIN, own_onnxruntime="1.18.0"))
    assert not [text for text in own if text.startswith("onnxruntime")]
    assert "numpy<2" in own
    assert "numpy<2" not in requirements(replace(ORIN, own_onnxruntime="1.23.0"))
    assert not [text for text in old if text.startswith(("torch", "onnx>", "timm"))]


def package(folder: Path, name: str, *requires: str) -> None:
    info = folder / f"{name.replace('-', '_')}-1.dist-info"
    info.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n" + "".join(f"Requires-Dist: {one}\n" for one in requires)
    (info / "METADATA").write_text(text)


def test_what_pip_left_out_for_another_python_is_found(tmp_path: Path) -> None:
    package(tmp_path, "A.b", "typing_extensions>=4; python_version < '3.11'", "colour; extra == 'x'", "C-d")
    package(tmp_path, "c_d", "winlib; sys_platform == 'win32'")
    assert unmet(tmp_path, ORIN) == ["typing_extensions>=4"]
    assert unmet(tmp_path, replace(ORIN, python=(3, 12))) == []
    package(tmp_path, "typing-extensions")
    assert unmet(tmp_path, ORIN) == []


def test_extras_bring_only_what_is_theirs(tmp_path: Path) -> None:
    package(tmp_path, "p", "base", "more; extra == 'cpu'", "tool; extra == 'dev'")
    (one,) = board_environment.distributions(path=[str(tmp_path)])
    assert needed_by(one, ORIN, "") == ["base"]
    assert needed_by(one, ORIN, "cpu") == ["more"]


def test_packages_that_pip_cannot_fetch_come_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(
        DhoxError,
        match=r"for orin .*could not be fetched here: ERROR: .*run `python3 -m pip install .*manylinux_2_35_aarch64.*put the folder cp310-",
    ):
        wheel_folder("orin", ORIN)
    assert list((tmp_path / "dhox/boards").iterdir()) == []


def test_packages_that_never_become_complete_are_one_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "first-1-py3-none-any.whl", "w") as wheel:
        for name, text in (
            ("METADATA", "Metadata-Version: 2.1\nName: first\nVersion: 1\nRequires-Dist: second; python_version < '3.11'\n"),
            ("WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
            ("RECORD", ""),
        ):  # fmt: skip
            wheel.writestr(f"first-1.dist-info/{name}", text)
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(folder)), ("XDG_CACHE_HOME", str(tmp_path))):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(board_environment, "requirements", lambda target: ["first"])
    monkeypatch.setattr(board_environment, "ROUNDS", 1)
    with pytest.raises(DhoxError, match=r"still lack second after 1 times pip\. Put a folder .*named cp310-"):
        wheel_folder("orin", ORIN)
    assert list((tmp_path / "dhox/boards").iterdir()) == []


def test_no_module_of_the_working_folder_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pip", "json", "dhox"):
        Path(f"{name}.py").write_text("from pathlib import Path; Path(__file__).with_suffix('.ran').touch()")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DhoxError, match="could not be fetched here: ERROR"):
        wheel_folder("orin", ORIN)
    with pytest.raises(DhoxError, match="none does not exist"):  # the child's own words: it is our footprint that ran
        measure_footprint(Path("none"), "fp32", "onnxruntime", "cpu", 1)
    assert list(tmp_path.glob("*.ran")) == []


def test_the_files_of_dhox_for_a_board_are_its_modules_without_the_demo() -> None:
    names = dhox_files().keys()
    assert {
        "dhox/cli/main.py",
        "dhox/bench/run.py",
        "dhox/export/engines/engine.py",
        "dhox/bench/bench.schema.json",
    } <= names
    assert not [name for name in names if "demo" in name or "__pycache__" in name]


# What is copied.


def test_exports_of_several_data_are_not_judged_on_one(own_line: Path) -> None:
    export = own_line / "runs/tiny/export"
    other = Path(shutil.copytree(export, "other"))
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"data": "/elsewhere"}))
    with pytest.raises(DhoxError, match=r"different DATA \(.*/elsewhere.*Give --data"):
        bench_remote("nobody@localhost.invalid", [export, other], ["--device=cpu"], device="cpu")
    check_one_data(open_subjects([export]))


def test_equal_trees_are_one_and_other_files_make_another() -> None:
    shipment = Shipment()
    first = shipment.add_tree({"a": b"1", "b": b"2"})
    assert shipment.add_tree({"b": b"2", "a": b"1"}) == first
    assert shipment.add_tree({"a": b"2", "b": b"2"}) != first
    assert sorted(shipment.sizes.values()) == [1, 1]


def test_an_export_is_shipped_without_engines(own_line: Path) -> None:
    export = own_line / "runs/tiny/export"
    (export / "engines/x").mkdir(parents=True)
    (export / "engines/x/model.engine").write_bytes(b"engine")
    shipment = Shipment()
    places, agreed = add_models(shipment, [export, export / "model.onnx"], None)
    assert agreed is None
    (tree,) = shipment.trees.values()
    assert set(tree) == {f"tiny/export/{path.name}" for path in export.iterdir() if path.is_file()}
    assert places[export].endswith("/tiny/export")
    assert places[export / "model.onnx"] == f"{places[export]}/model.onnx"
    (export / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(DhoxError, match="is not the file that"):
        add_models(Shipment(), [export], None)


def test_equal_exports_of_equal_names_have_a_place_each(own_line: Path) -> None:
    export = own_line / "runs/tiny/export"
    for folder in ("b", "c"):
        shutil.copytree(export, own_line / folder / "tiny/export")
    paths = [export, own_line / "b/tiny/export", own_line / "c/tiny/export/model.onnx", export / "model.onnx"]
    shipment = Shipment()
    places, _ = add_models(shipment, paths, None)
    assert len(set(places.values())) == 4
    assert places[paths[3]] == f"{places[export]}/model.onnx"
    # Alone, an export lies where it lies among others that are not its equals: its engines are there.
    assert add_models(Shipment(), [export], None)[0][export] == places[export]
    for path, there in places.items():
        key, _, inside = there.partition("/")
        names = {name for name in shipment.trees[key] if name == inside or name.startswith(f"{inside}/")}
        assert len(names) == (1 if path.suffix else len(list(export.iterdir())))
        assert inside.removesuffix("/model.onnx").endswith("tiny/export")


def test_a_contract_takes_its_class_list_along_and_nothing_from_elsewhere(own_line: Path, tmp_path: Path) -> None:
    model = tmp_path / "other.onnx"
    model.write_bytes((own_line / "runs/tiny/export/model.onnx").read_bytes())
    contract = tmp_path / "contract.toml"
    contract.write_text('classes = "names.txt"\n')
    (tmp_path / "names.txt").write_text("a\nb\n")
    shipment = Shipment()
    _, agreed = add_models(shipment, [model], contract)
    assert agreed is not None
    assert {path for tree in shipment.trees.values() for path in tree} == {"other.onnx", "contract.toml", "names.txt"}
    contract.write_text('classes = "../names.txt"\n')
    with pytest.raises(DhoxError, match="lies outside"):
        add_models(Shipment(), [model], contract)


@given(st.lists(st.tuples(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1), st.sampled_from("ab")), min_size=1, max_size=5, unique_by=lambda row: row[0].strip()))  # fmt: skip
def test_images_keep_their_names_whatever_they_are(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    rows = [(name.strip(), label) for name, label in rows if name.strip()]
    folder = tmp_path_factory.mktemp("images")
    (folder / "file").write_bytes(b"pixels")
    items = [Item(folder / "file", name, label) for name, label in rows]
    shipment = Shipment()
    key = add_images(shipment, items, [])
    if not items:
        assert key is None
        return
    assert key is not None
    tree = shipment.trees[key.partition("/")[0]]
    for path, blob in tree.items():
        (folder / "there" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "there" / path).write_bytes(shipment.open(blob).read())
    found = read_dataset(folder / "there/data.csv", "test")["test"]
    assert {(item.name, item.label) for item in found} == set(rows)
    assert len(tree) == 2  # equal content is one file


def test_an_image_inside_an_archive_is_shipped_alone(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(b"..image..")
    shipment = Shipment()
    add_images(shipment, [Item(tmp_path / "archive", "x", "a", span=(2, 5))], [])
    assert b"image" in [shipment.open(blob).read() for blob in shipment.sizes]


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DhoxError, match=r"gone.png cannot be read .*Mend it"):
        add_images(Shipment(), [Item(tmp_path / "gone.png", "gone.png", "a")], [])


# Words and texts.


def test_errors_keep_their_kind() -> None:
    assert type(failed("orin", 2, "x", [])) is UsageError
    assert type(failed("orin", 3, "x", [])) is GateFailedError
    assert str(failed("orin", 1, "No room. Make some.", [])) == "On orin: No room. Make some."
    bar = "batch 1 ━━━━━━━━ 40/40"
    assert "status 1: last words. Run" in str(failed("orin", 1, None, ["last words", bar, " "]))
    assert "was killed (SIGKILL; probably its memory was full). Look at `dmesg` there" in str(
        failed("orin", -9, None, [bar])
    )


def test_benches_are_found_by_power_mode_finished_or_not() -> None:
    def row(status: str) -> bytes:
        return json.dumps(EMPTY | {"status": status}).encode()

    begun = json.dumps({"schema": BENCH_SCHEMA, "status": "running"}).encode()
    assert benches_of({"bench.partial/bench.json": begun, "bench.partial/samples.npz": b""}) == {}
    one = benches_of({"bench.partial/bench.json": row("running"), "bench.partial/samples.npz": b"s"})
    assert one[""][0]["status"] == "interrupted"
    assert one[""][1] == {"samples.npz": b"s"}
    modes = benches_of(
        {
            "bench/0-15W/bench.json": row("complete"), "bench/0-15W/samples.npz": b"a",
            "bench/1-30W.partial/bench.json": row("running"), "bench/1-30W.partial/samples.npz": b"b",
        }
    )  # fmt: skip
    assert {mode: (content["status"], others) for mode, (content, others) in modes.items()} == {
        "0-15W": ("complete", {"samples.npz": b"a"}),
        "1-30W": ("interrupted", {"samples.npz": b"b"}),
    }


@pytest.mark.parametrize(
    "text",
    [
        b"damaged", b"[]", b"null", b'{"latency": []}', b"[" * 5000, b'{"a":' * 300 + b"1" + b"}" * 300, b"9" * 5000, b"\xff",
        json.dumps(EMPTY | {"energy": {"w": math.nan}}).encode(), json.dumps(EMPTY).encode()[:-1] + b', "x": 1e999}',
        json.dumps({key: value for key, value in EMPTY.items() if key != "golden"}).encode(),
        json.dumps(EMPTY | {"golden": [{}]}).encode(), json.dumps(EMPTY | {"schema": "dhox.bench/1"}).encode(),
    ],
)  # fmt: skip
def test_a_bench_that_dhox_did_not_write_is_one_message(text: bytes) -> None:
    with pytest.raises(DhoxError, match=r"^The bench\.json of the board (is damaged|does not hold what dhox writes)"):
        benches_of({"bench/bench.json": text})


def test_texts_of_a_bench_command_no_terminal() -> None:
    text = json.dumps(EMPTY | {"not_run": ["\x1b[2J", "\ud800"]}).encode()
    assert benches_of({"bench/bench.json": text})[""][0]["not_run"] == ["\ufffd[2J", "\ufffd"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cc", "Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cc", "Cs"])), inner),
    max_leaves=8,
)  # fmt: skip


@given(JSON)
def test_sound_answers_are_read_as_they_are(value: Any) -> None:
    assert read_answer(json.dumps(value)) == value
    assert fits({"a": [value, 1]}, {"a": (type(value), int)})
    assert not fits({"a": [value]}, {"a": (type(value), int)})
    assert not fits({"a": value}, {"b": type(value)})
    assert fits([value, value], [type(value)])


@given(JSON, st.sampled_from([LOOK, OUT, STATUS, PROBE, FINDINGS, BENCH]))
def test_no_value_breaks_the_check_of_a_shape(value: Any, shape: Any) -> None:
    assert isinstance(fits(value, shape), bool)
    assert isinstance(fits([value], shape), bool)


def test_truth_is_no_number() -> None:
    assert not fits({"status": True}, STATUS)
    assert not fits({"status": "abc"}, STATUS)


@pytest.mark.parametrize(
    "name", ["bench/bench.json", "bench.partial/samples.npz", "bench/0-MAXN/predictions.csv", "bench/3-30W EMC.partial/bench.json"]
)  # fmt: skip
def test_results_are_taken_from_a_board(name: str) -> None:
    assert RESULT.fullmatch(name)


@pytest.mark.parametrize(
    "name", ["..", "../bench/bench.json", "bench/../bench.json", "/bench/bench.json", ".bashrc", "bench/.bashrc", "bench/report.html",
     "bench/../0-x/bench.json", "bench/0-x/y/bench.json", "bench/0-\x1b[31m/bench.json", "bench/0-" + "x" * 255 + "/bench.json",
     "bench/bench.json\n", "bench//bench.json", "bench/0-../../bench.json"]
)  # fmt: skip
def test_nothing_else_is_taken_from_a_board(name: str) -> None:
    assert not RESULT.fullmatch(name)


def test_paths_are_replaced_wherever_they_stand() -> None:
    content = {"a": ["/there/x/model.onnx failed", 1, None], "b": {"c": "/there/x"}}
    assert replace_texts(content, {"/there/x": "/here"}) == {
        "a": ["/here/model.onnx failed", 1, None],
        "b": {"c": "/here"},
    }


def test_options_are_passed_on_as_single_words() -> None:
    app, seen = typer.Typer(), list[str]()

    @app.command()
    def command(
        context: typer.Context,
        name: str,
        many: Annotated[list[str] | None, typer.Option()] = None,
        flag: bool = False,
        other: int = 3,
        host: str = "",
    ) -> None:
        seen.extend(option_words(context, {"host"}))

    app(["--many", "-x y", "argument", "--many=--flag", "--flag", "--host", "h"], standalone_mode=False)
    assert seen == ["--many=-x y", "--many=--flag", "--flag"]


@pytest.mark.parametrize("more", [["--target", "orin-nano@jp6.2"], ["--sysroot", "/"]])
def test_doctor_looks_at_one_thing(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--host", "orin", *more])
    assert end.value.code == 2
    assert "--host looks at a board as it is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bench", "--host", "orin", "--sysroot", "/"], "Leave out --sysroot"),
        (["bench", "x", "--host", "orin", "--runner", "torch:graph"], "--host does not take along"),
        (["bench", "--remote-python", "python3.11"], "Add --host"),
        (["doctor", "--remote-python", "python3"], "Add --host"),
        (["doctor", "--restore-power-mode", "--json"], "Leave out --json"),
        (["doctor", "--host", "orin", "--restore-power-mode", "--json"], "Leave out --json"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        (DhoxError("It is full.", ""), "It is full.", 1),
        (OSError(28, "No space left on device"), "No space left on device", 1),
        (KeyboardInterrupt(), "Interrupted", 130),
    ],
)
def test_every_error_says_where_results_remain(error: BaseException, said: str, code: int) -> None:
    with (
        pytest.raises(DhoxError, match=f"{said}.*lies there in /a b/r; `scp -r 'u@orin:/a b/r' .` brings") as caught,
        said_to_remain("u@orin", "/a b/r"),
    ):
        raise error
    assert caught.value.exit_code == code
    with (
        pytest.raises(DhoxError, match="`scp -r scp://orin:22//s/r .` brings"),
        said_to_remain("ssh://orin:22", "/s/r"),
    ):
        raise error


@pytest.mark.parametrize("release", ["", "# R36 (release), REVISION: 4.3\nmore"])
def test_a_board_is_shown_whatever_its_release_file_holds(release: str) -> None:
    probe = ORIN_PROBE | {
        "host": "orin", "python": {"version": [3, 10, 12], "path": "/usr/bin/python3"}, "store": "/s", "free_bytes": 1,
        "tensorrt": {"works": True, "found": "10.3.0"}, "environment": [],
        "onnxruntime": {"works": True, "found": "1.18.0 CUDAExecutionProvider"},
        "texts": {"/etc/nv_tegra_release": release, "/proc/device-tree/model": ""},
    }  # fmt: skip
    assert fits(probe, PROBE)
    shown = dict(rows(probe))
    assert shown["L4T"] == (release.splitlines() or ["none"])[0]
    assert describe(probe) == "orin, aarch64, Python 3.10.12, TensorRT 10.3.0, its own onnxruntime 1.18.0"


def test_engines_where_there_is_no_gpu_are_one_message() -> None:
    arguments = json.dumps({"exports": [], "precisions": [], "batches": [1]})
    done = subprocess.run(
        [sys.executable, "-m", "dhox.bench.remote.board_engines", arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
