"""The parts of a remote bench that need no connection."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import loopback
import msgspec
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from dhox.artefacts.files import BENCH_FILE
from dhox.artefacts.remote import BoardPython, BoardRuntime, Probe
from dhox.bench.bench_models import open_subjects
from dhox.bench.remote import board, board_environment
from dhox.bench.remote.answers import Said, read_answer
from dhox.bench.remote.board_environment import (
    Target,
    add_packages,
    dhox_files,
    install,
    needed_by,
    requirements,
    target_of,
    unmet,
    wheel_folder,
)
from dhox.bench.remote.bundle import Bundle, add_images, add_models
from dhox.bench.remote.results import benches_of, replace_texts, said_to_remain
from dhox.bench.remote.run import Output, bench_remote, check_one_data, describe
from dhox.bench.sweep.footprint import measure_footprint
from dhox.cli.common import option_words
from dhox.cli.main import main
from dhox.data.dataset import Item, read_dataset
from dhox.doctor.backends import Finding
from dhox.errors import DhoxError, GateFailedError, StoppedError, UsageError, error_line
from dhox.reports.remote_tables import rows

ORIN = Target((3, 10), "aarch64", (2, 35))
PROBE = Probe(
    host="orin", system="Linux", machine="aarch64", libc=("glibc", "2.35"), store="/s", free_bytes=1, environment=[],
    python=BoardPython(version=(3, 10, 12), path="/usr/bin/python3"), tensorrt=BoardRuntime(True, "10.3.0"),
    onnxruntime=BoardRuntime(False, "ModuleNotFoundError"),
    texts={"/etc/nv_tegra_release": "", "/proc/device-tree/model": ""},
)  # fmt: skip


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
    for folder in ("trees/used", "trees/old", "trees/fresh", "runs/old"):
        (tmp_path / folder).mkdir(parents=True)
    long_ago = time.time() - board.KEEP_S - 60
    for path in ("trees/used", "trees/old", "runs/old"):
        os.utime(tmp_path / path, (long_ago, long_ago))
    board.prepare(["used", "new"])
    assert {path.name for path in (tmp_path / "trees").iterdir()} == {"used", "fresh", "new"}
    assert list((tmp_path / "runs").iterdir()) == []


def test_what_was_prepared_is_remembered_for_one_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DHOX_REMOTE_CACHE", str(tmp_path / "store"))
    monkeypatch.setattr(board_environment, "wheel_folder", lambda host, target: tmp_path / "wheels")
    package(tmp_path / "wheels", "colour")
    assert board.remembered() == []
    here = msgspec.structs.replace(PROBE, python=BoardPython(version=sys.version_info[:3], path=sys.executable))
    packages = add_packages(Bundle(tmp_path / "store"), "orin", here)
    assert board.remembered() == packages
    (kept,) = (tmp_path / "store").glob("environment-*")
    for damage in ("", "{", "{}", "\0" * 8):
        kept.write_text(damage)
        assert board.remembered() == []


def test_a_store_that_pythonpath_cannot_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DHOX_REMOTE_CACHE", str(tmp_path / "a:b"))
    with pytest.raises(board.BoardError, match="DHOX_REMOTE_CACHE"):
        board.probe()


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
        (60, lambda process: process.stdin.close(), board.END_OF_INPUT, False),
        (60, lambda process: process.terminate(), "signal 15", True),
        (1, lambda process: None, "silence", True),
    ],
)  # fmt: skip
def test_a_link_that_ends_while_another_bench_measures_is_answered(
    tmp_path: Path, patience: int, end: Callable[[subprocess.Popen[bytes]], None], ended: str, said: bool
) -> None:
    with socket.socket(socket.AF_UNIX) as holder:
        assert board.take(holder)
        process = board_process(tmp_path, {}, ["touch", "started"], patience)
        assert process.stdout is not None
        assert b"waiting for its end" in process.stdout.readline()
        end(process)
        answers = [json.loads(line.removeprefix(board.MARK)) for line in process.stdout]
        process.wait(60)
    assert answers[-1] == {"status": board.INTERRUPTED, "ended": ended}
    assert [ended in one["out"] for one in answers[:-1]] == [True] * said
    assert list(tmp_path.rglob("started")) == []


def test_what_holds_the_machine_runs_benches_that_do_not_wait(tmp_path: Path) -> None:
    code = "from dhox.bench.machine_lock import one_at_a_time\nwith one_at_a_time():\n    print('mine', flush=True)"
    process = board_process(tmp_path, {int(n): s for n, s in board.GRACE_S.items()}, [sys.executable, "-c", code])
    assert process.stdout is not None
    first = json.loads(process.stdout.readline().removeprefix(board.MARK))
    process.communicate(timeout=60)
    assert first == {"out": "mine"}


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
    assert target_of("orin", PROBE) == ORIN
    own = BoardRuntime(True, "1.18.0 CUDAExecutionProvider")
    assert target_of("orin", msgspec.structs.replace(PROBE, onnxruntime=own)).own_onnxruntime == "1.18.0"


@pytest.mark.parametrize("odd", [{"system": "Darwin"}, {"machine": "riscv64"}, {"libc": ("", "")}])
def test_a_board_without_wheels_is_refused(odd: dict[str, Any]) -> None:
    with pytest.raises(DhoxError, match="glibc"):
        target_of("odd", msgspec.structs.replace(PROBE, **odd))


def test_tags_go_from_the_boards_glibc_down() -> None:
    tags = ORIN.tags()
    assert tags[0] == "manylinux_2_35_aarch64"
    assert {"manylinux_2_28_aarch64", "manylinux2014_aarch64", "manylinux_2_17_aarch64"} <= set(tags)
    assert not any("2_36" in tag or "x86" in tag for tag in tags)
    assert "manylinux1_x86_64" in dataclasses.replace(ORIN, machine="x86_64").tags()


def test_requirements_are_those_of_the_board_and_not_of_this_python() -> None:
    old, new = requirements(ORIN), requirements(dataclasses.replace(ORIN, python=(3, 12)))
    assert [text for text in old if text.startswith("tomli")]
    assert not [text for text in new if text.startswith("tomli")]
    assert [text for text in old if text.startswith("onnxruntime")]
    assert [text for text in old if text.startswith("msgspec")]
    own = requirements(dataclasses.replace(ORIN, own_onnxruntime="1.18.0"))
    assert not [text for text in own if text.startswith("onnxruntime")]
    assert "numpy<2" in own
    assert "numpy<2" not in requirements(dataclasses.replace(ORIN, own_onnxruntime="1.23.0"))
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
    assert unmet(tmp_path, dataclasses.replace(ORIN, python=(3, 12))) == []
    package(tmp_path, "typing-extensions")
    assert unmet(tmp_path, ORIN) == []


def test_extras_bring_only_what_is_theirs(tmp_path: Path) -> None:
    package(tmp_path, "p", "base", "more; extra == 'cpu'", "tool; extra == 'dev'")
    (one,) = board_environment.distributions(path=[str(tmp_path)])
    assert needed_by(one, ORIN, "") == ["base"]
    assert needed_by(one, ORIN, "cpu") == ["more"]


@pytest.mark.parametrize("target", [ORIN, dataclasses.replace(ORIN, python=(3, 12)), dataclasses.replace(ORIN, machine="x86_64")])  # fmt: skip
def test_compiled_packages_are_those_of_the_board(target: Target, tmp_path: Path) -> None:
    try:
        install(
            "orin", [text for text in requirements(target) if text.startswith("msgspec")], target, tmp_path, tmp_path
        )
    except DhoxError:
        pytest.skip(loopback.NO_INDEX)
    (library,) = (tmp_path / "msgspec").glob("*.so")
    assert library.name == f"_core.cpython-{target.python[0]}{target.python[1]}-{target.machine}-linux-gnu.so"


def test_packages_that_pip_cannot_fetch_come_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(
        DhoxError,
        match=r"orin.*ERROR: .*`python3 -m pip install .*manylinux_2_35_aarch64.*cp310-",
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
    with pytest.raises(DhoxError, match="second.*cp310-"):
        wheel_folder("orin", ORIN)
    assert list((tmp_path / "dhox/boards").iterdir()) == []


def test_no_module_of_the_working_folder_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pip", "json", "dhox"):
        Path(f"{name}.py").write_text("from pathlib import Path; Path(__file__).with_suffix('.ran').touch()")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DhoxError, match="ERROR"):
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
    with pytest.raises(DhoxError, match="/elsewhere.*--data"):
        bench_remote("nobody@localhost.invalid", [export, other], ["--device=cpu"], device="cpu")
    check_one_data(open_subjects([export]))


def bundle_of(folder: Path) -> Bundle:
    """An empty bundle."""
    folder.mkdir()
    return Bundle(folder)


def files_of(bundle: Bundle, tree: str) -> dict[str, bytes]:
    """What a tree holds, by relative path."""
    root = bundle.folder / "trees" / tree
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_equal_trees_are_one_and_other_files_make_another(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "bundle")
    first = bundle.add_tree({"a": b"1", "b": b"2"})
    assert bundle.add_tree({"b": b"2", "a": b"1"}) == first
    assert (bundle.files, bundle.bytes) == (2, 2)
    assert len({first, bundle.add_tree({"a": b"2", "b": b"2"}), bundle.add_tree({"a": b"1", "b": b"2"}, "of")}) == 3


def test_an_export_is_sent_without_engines(own_line: Path, tmp_path: Path) -> None:
    export = own_line / "runs/tiny/export"
    (export / "engines/x").mkdir(parents=True)
    (export / "engines/x/model.engine").write_bytes(b"engine")
    bundle = bundle_of(tmp_path / "bundle")
    places = add_models(bundle, [export, export / "model.onnx"], None)
    (tree,) = bundle.trees
    files = {f"tiny/export/{path.name}": path.read_bytes() for path in export.iterdir() if path.is_file()}
    assert files_of(bundle, tree) == files
    assert places == {export: f"{tree}/tiny/export", export / "model.onnx": f"{tree}/tiny/export/model.onnx"}
    (export / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(DhoxError, match="model.onnx"):
        add_models(bundle, [export], None)


def test_equal_exports_have_a_place_each_which_stays_theirs(own_line: Path, tmp_path: Path) -> None:
    export = own_line / "runs/tiny/export"
    paths = [export]
    for folder in ("b", "c"):
        paths.append(Path(shutil.copytree(export, own_line / folder / "tiny/export")))
    places = add_models(bundle_of(tmp_path / "bundle"), paths, None)
    assert len(set(places.values())) == 3
    # Engines that are built there are found again.
    assert [add_models(bundle_of(tmp_path / f"{n}"), [path], None)[path] for n, path in enumerate(paths)] == [
        *places.values()
    ]


def test_a_contract_takes_its_class_list_along_and_nothing_from_elsewhere(own_line: Path, tmp_path: Path) -> None:
    model = tmp_path / "other.onnx"
    model.write_bytes((own_line / "runs/tiny/export/model.onnx").read_bytes())
    contract = tmp_path / "contract.toml"
    contract.write_text('classes = "names.txt"\n')
    (tmp_path / "names.txt").write_text("a\nb\n")
    bundle = bundle_of(tmp_path / "bundle")
    places = add_models(bundle, [model], contract)
    assert [sorted(files_of(bundle, places[path].split("/")[0])) for path in (model, contract)] == [
        ["other.onnx"],
        ["contract.toml", "names.txt"],
    ]
    contract.write_text('classes = "../names.txt"\n')
    with pytest.raises(DhoxError, match="names.txt"):
        add_models(bundle, [model], contract)


@given(st.lists(st.tuples(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1), st.sampled_from("ab")), min_size=1, max_size=5, unique_by=lambda row: row[0].strip()))  # fmt: skip
def test_images_keep_their_names_whatever_they_are(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    rows = [(name.strip(), label) for name, label in rows if name.strip()]
    folder = tmp_path_factory.mktemp("images")
    (folder / "file").write_bytes(b"pixels")
    items = [Item(folder / "file", name, label) for name, label in rows]
    bundle = bundle_of(folder / "bundle")
    place = add_images(bundle, "/data", items, [])
    if not items:
        assert place is None
        return
    assert place is not None
    found = read_dataset(bundle.folder / "trees" / place, "test")["test"]
    assert {(item.name, item.label) for item in found} == set(rows)
    assert bundle.files == 2  # equal content is one file


def test_benches_on_the_same_data_share_images(tmp_path: Path) -> None:
    items = [Item(tmp_path / name, name, "a") for name in "xyz"]
    for item in items:
        item.path.write_text(item.name)
    bundle = bundle_of(tmp_path / "bundle")
    places = {add_images(bundle, "/data", items[:2], []), add_images(bundle, "/data", items[1:], [])}
    assert len(places) == 2
    assert len(bundle.trees) == 1
    assert bundle.files == 3 + 2


def test_an_image_inside_an_archive_is_sent_alone(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(b"..image..")
    bundle = bundle_of(tmp_path / "bundle")
    add_images(bundle, "/data", [Item(tmp_path / "archive", "x", "a", span=(2, 5))], [])
    assert b"image" in files_of(bundle, bundle.trees[0]).values()


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DhoxError, match="gone.png"):
        add_images(bundle_of(tmp_path / "bundle"), "/data", [Item(tmp_path / "gone.png", "gone.png", "a")], [])


# Words and texts.


@pytest.mark.parametrize("kind", [DhoxError, UsageError, GateFailedError, StoppedError])
def test_errors_keep_their_kind(kind: type[DhoxError], capsys: pytest.CaptureFixture[str]) -> None:
    said = Output()
    for line in ("batch 1", "", error_line(kind("No \u00fc room.", "Make some."))):
        said(line)
    found = said.failure("orin", kind.exit_code)
    assert type(found) is kind
    assert (found.reason, found.fix) == ("On orin: No \u00fc room.", "Make some.")
    assert capsys.readouterr().out == "batch 1\n\n"


def test_what_ends_without_an_error_says_its_last_line_or_signal() -> None:
    said = Output()
    assert "status 1" in said.failure("orin", 1).reason
    said("last words")
    said(" ")
    assert "last words" in said.failure("orin", 1).reason
    assert "SIGKILL" in said.failure("orin", -9).reason
    assert "dmesg" in said.failure("orin", -9).fix


def results(folder: Path, **files: str) -> Path:
    """A folder as it comes from a board: bench.json by its folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for place, text in files.items():
        (folder / place).mkdir(parents=True)
        (folder / place / BENCH_FILE).write_text(text)
    return folder


def test_benches_are_found_by_power_mode_finished_or_not(tmp_path: Path) -> None:
    def found(**files: str) -> dict[str, str]:
        return {
            mode: path.relative_to(tmp_path).as_posix() for mode, path in benches_of(results(tmp_path, **files)).items()
        }

    assert found(bench="{}") == {"": "bench"}
    assert found(**{"bench.partial": "{}"}) == {"": "bench.partial"}
    modes = {"bench/0-15W": "{}", "bench/1-30W EMC.partial": "{}"}
    assert found(**modes) == {"0-15W": "bench/0-15W", "1-30W EMC": "bench/1-30W EMC.partial"}
    odd = ("elsewhere", "bench/x", "bench/0-x/y", "bench/0-\x1b[31m", "bench/0-" + "x" * 200)
    assert found(**dict.fromkeys(odd, "{}")) == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cc", "Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cc", "Cs"])), inner),
    max_leaves=8,
)  # fmt: skip


@given(JSON)
def test_sound_answers_are_read_as_they_are(value: Any) -> None:
    assert read_answer(json.dumps(value).encode(), Any) == value


@given(JSON, st.sampled_from([Said, Probe, list[Finding]]))
def test_no_answer_breaks_its_reader(value: Any, kind: Any) -> None:
    with contextlib.suppress(ValueError):
        read_answer(json.dumps([value]).encode(), kind)


@pytest.mark.parametrize(
    "text", [b'{"status": true}', b'{"status": "abc"}', b'{"status": 1e999}', b"{", b"\xff", b"[]"]
)
def test_what_does_not_fit_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="."):
        read_answer(text, Said)


def test_texts_of_a_board_command_no_terminal() -> None:
    assert read_answer(b'{"out": "\\u001b[2J"}', Said).out == "\ufffd[2J"


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
    probe = msgspec.structs.replace(
        PROBE, onnxruntime=BoardRuntime(True, "1.18.0 CUDAExecutionProvider"),
        texts={"/etc/nv_tegra_release": release, "/proc/device-tree/model": ""},
    )  # fmt: skip
    assert dict(rows(probe))["L4T"] == (release.splitlines() or ["none"])[0]
    assert describe(probe) == "orin, aarch64, Python 3.10.12, TensorRT 10.3.0, its own onnxruntime 1.18.0"


@pytest.mark.parametrize("needed", [True, False])
def test_engines_where_there_is_no_gpu_are_one_message(needed: bool) -> None:
    engines = {"exports": [], "precisions": [], "batches": [1], "needed": needed}
    done = subprocess.run(
        [sys.executable, "-m", "dhox.cli.on_board", json.dumps({"engines": engines, "words": ["--help"]})],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == needed
    assert done.stderr.count("\n") == needed
    assert ("No TensorRT engines" in done.stdout) is not needed
