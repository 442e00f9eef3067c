"""`dhox bench --host` and `dhox doctor --host`: the same commands on a board, over ssh.

The board keeps what was copied, its packages and its engines, so that a second run copies nothing. Nothing is left
running there, whatever ends this process or the connection.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from dhox.bench.accuracy import evaluation_items
from dhox.bench.board_environment import dhox_files, folder_files, target_of, wheel_folder
from dhox.bench.board_link import Board
from dhox.bench.judge import export_ledger
from dhox.bench.run import BenchResult, default_out
from dhox.bench.shipment import Shipment, add_images, add_models
from dhox.bench.subjects import Subject, open_subjects
from dhox.console import console, progress_bar, say
from dhox.dataset import Item, data_address
from dhox.device_ledger import ledger_items
from dhox.errors import DhoxError, GateFailedError, UsageError
from dhox.files import BENCH_FILE, BENCH_SCHEMA, EXPORT_FILE, check_output, output_directory, write_bytes, write_json

ERROR = "Error: "  # how a dhox command begins its one message
NOT_THERE = (
    "Next: ",
    "Report: ",
    "No report.html: ",
    f"bench/{BENCH_FILE}",
)  # its lines about files: those are written here
NOT_PREPARED = "not prepared yet: the first `dhox bench --host` copies what dhox needs there"
EXPECTED = (0, 3, 130)  # exit statuses of a bench with results: done, a failed gate, interrupted
TENSORRT_DEVICES = ("jetson", "tensorrt")  # nothing else will do there


def bench_remote(
    host: str,
    paths: list[Path],
    arguments: list[str],
    out: Path | None = None,
    *,
    device: str = "auto",
    contract: Path | None = None,
    data: Path | None = None,
    precisions: tuple[str, ...] = (),
    batches: tuple[int, ...] = (1, 8),
    overwrite: bool = False,
    python: str = "python3",
) -> BenchResult:
    """Measure models on a board, and write the bench directory here.

    `host`: as for ssh. `paths`, `contract`, `data`, `out`: on this machine, as `dhox.bench.run.bench` takes them.
    `arguments`: option words for `dhox bench` there, beside --device, --out, --data and --contract. `precisions`,
    `batches`: what engines are built for. `python`: the interpreter there. bench.json gets the paths of this machine in
    place of the board's, and a section `remote`. Ctrl-C ends the bench there in order and keeps what it had (status
    interrupted). Raises DhoxError with one message for everything that the board, the connection or pip refuse.
    """
    subjects = open_subjects(paths, contract, precisions)
    items, where, _ = evaluation_items(data, subjects)
    shipment = Shipment()
    places, agreed = add_models(shipment, paths, contract)
    images = add_images(shipment, items, judges_of(subjects, where))
    if out is not None:
        check_output(out, BENCH_FILE, BENCH_SCHEMA, overwrite)
    with Board(host, python) as board:
        probe = board.ask("probe")
        say(f"{host} is {describe(probe)}")
        out = out or default_out(subjects[0]) / f"{plain(probe['host'])}-{datetime.now():%Y%m%d-%H%M%S}"
        check_output(out, BENCH_FILE, BENCH_SCHEMA, overwrite)
        packages = add_packages(shipment, host, probe)
        trees = copy(board, shipment, packages)
        environment = environment_of(trees, packages)
        run = secrets.token_hex(8)
        if device != "cpu" and probe["tensorrt"]["works"]:
            folders = [f"{trees}/{places[path]}" for path in paths if (path / EXPORT_FILE).is_file()]
            engines(board, probe["python"]["path"], environment, run, device, folders, precisions, batches)
        words = [*(f"{trees}/{places[path]}" for path in paths), *arguments, f"--device={device}", "--out=bench"]
        words += [f"--contract={trees}/{agreed}"] if agreed else []
        words += [f"--data={trees}/{images}"] if images else []
        lines = Lines()
        interrupted: KeyboardInterrupt | None = None
        try:
            status, tail = board.run([probe["python"]["path"], "-m", "dhox", "bench", *words], environment, run, lines)
        except KeyboardInterrupt as err:
            interrupted, status, tail = err, 130, []
        except DhoxError as err:
            raise DhoxError(f"{err} What it had measured lies there in {probe['store']}/runs/{run}.") from err
        files = board.collect(run)
    content = read_content(files)
    if content is None:
        if interrupted is not None:
            raise interrupted
        raise failed(host, status, lines.error, tail)
    local = {f"{trees}/{place}": str(path.absolute()) for path, place in places.items()}
    local |= {f"{trees}/{agreed}": str(contract.absolute())} if agreed and contract else {}
    local |= {f"{trees}/{images}": data_address(where)} if images and where else {}
    content = replace_texts(content, local) | {
        "remote": {
            "host": host,
            "probe": probe,
            "python": python,
            "paths": {mine: there for there, mine in local.items()},
        }
    }
    with output_directory(out, BENCH_FILE, BENCH_SCHEMA, overwrite) as folder:
        for name in sorted(files.keys() - {BENCH_FILE, "report.html"}):
            write_bytes(folder / name, files[name])
        write_json(folder / BENCH_FILE, content)
    say(f"Results of {host}: {out}")
    if status not in EXPECTED:
        say(
            f"dhox on {host} wrote them, and then ended with status {status}: "
            f"{lines.error or next(iter(tail[-1:]), 'it said nothing')}"
        )
    return BenchResult(out, content, all(row["passed"] for row in content["golden"]))


def examine_board(host: str, python: str = "python3") -> dict[str, Any]:
    """What a board is and can do: its `probe`, and the `findings` of `dhox doctor` there once a bench prepared it.

    `findings` is None before, with the reason in `note`. Raises DhoxError as `bench_remote` does.
    """
    lines: list[str] = []
    with Board(host, python) as board:
        probe = board.ask("probe")
        content: dict[str, Any] = {"host": host, "probe": probe, "findings": None, "note": None}
        if probe["environment"] is None:
            return content | {"note": NOT_PREPARED}
        status, tail = prepared(board, probe, ["doctor", "--json"], lines.append)
    try:
        return content | {"findings": json.loads("\n".join(lines))}
    except ValueError:
        last = tail[-1] if tail else f"status {status}"
        return content | {"note": f"dhox there does not run ({last}): `dhox bench --host` copies it again"}


def restore_board(host: str, python: str = "python3") -> None:
    """`dhox doctor --restore-power-mode` on a board: what a killed bench there left behind. Raises DhoxError."""
    lines = Lines()
    with Board(host, python) as board:
        probe = board.ask("probe")
        if probe["environment"] is None:
            raise DhoxError(f"{host} is {NOT_PREPARED}.")
        status, tail = prepared(board, probe, ["doctor", "--restore-power-mode"], lines)
    if status:
        raise failed(host, status, lines.error, tail)


def prepared(
    board: Board, probe: dict[str, Any], words: list[str], show: Callable[[str], None]
) -> tuple[int, list[str]]:
    """Run dhox with the packages that the last bench brought there."""
    environment = environment_of(f"{probe['store']}/trees", probe["environment"])
    return board.run([probe["python"]["path"], "-m", "dhox", *words], environment, secrets.token_hex(8), show)


class Lines:
    """Shows the output of the command there; its error message is kept to be raised here."""

    def __init__(self) -> None:
        self.error: str | None = None

    def __call__(self, line: str) -> None:
        """Take one line."""
        if line.startswith(ERROR):
            self.error = line.removeprefix(ERROR)
        elif not line.startswith(NOT_THERE):
            say(line)


def judges_of(subjects: list[Subject], where: Path | None) -> list[Item]:
    """The images of the ledgers of all exports, each once."""
    found: dict[str, Item] = {}
    for subject in subjects:
        if subject.export is not None and where is not None:
            items, _ = ledger_items(where, subject.classes, export_ledger(subject))
            found |= {item.name: item for item in items}
    return list(found.values())


def describe(probe: dict[str, Any]) -> str:
    """A board in one line."""
    model = probe["texts"].get("/proc/device-tree/model")
    version = ".".join(map(str, probe["python"]["version"]))
    trt, ort = probe["tensorrt"], probe["onnxruntime"]
    parts = [
        model or probe["host"], probe["machine"], f"Python {version}",
        f"TensorRT {trt['found']}" if trt["works"] else f"no TensorRT ({trt['found']})",
        f"its own onnxruntime {ort['found'][0]}" if ort["works"] else "no onnxruntime of its own",
    ]  # fmt: skip
    return ", ".join(parts)


def plain(name: str) -> str:
    """A host name as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".") or "board"


def add_packages(shipment: Shipment, host: str, probe: dict[str, Any]) -> list[str]:
    """dhox and the packages that it needs on this board; the keys of their trees, in the order of PYTHONPATH."""
    wheels = wheel_folder(host, target_of(host, probe))
    return [shipment.add_tree(dhox_files()), shipment.add_tree(folder_files(wheels))]


def copy(board: Board, shipment: Shipment, packages: list[str]) -> str:
    """Bring the board what it lacks; answers with its folder of trees."""
    lacking = board.ask("missing", blobs=shipment.sizes)["missing"]
    sizes = {name: shipment.sizes[name] for name in lacking}
    there = len(shipment.sizes) - len(sizes)
    say(f"Copying {len(sizes):,} files, {sum(sizes.values()) / 1e6:,.1f} MB ({there:,} are there already)")
    if sizes:
        with progress_bar(f"to {board.host}, files", len(sizes)) as advance:
            board.send(sizes, shipment.open, advance)
    trees: str = board.ask("place", trees=shipment.trees, environment=packages)["trees"]
    return trees


def environment_of(trees: str, packages: list[str]) -> dict[str, str]:
    """The environment of a Python there that finds dhox; what the board itself has comes after it."""
    return {
        "PYTHONPATH": ":".join(f"{trees}/{key}" for key in packages), "PYTHONSAFEPATH": "1", "PYTHONUTF8": "1",
        "PYTHONUNBUFFERED": "1", "COLUMNS": str(console.width),
    }  # fmt: skip


def engines(
    board: Board,
    python: str,
    environment: dict[str, str],
    run: str,
    device: str,
    exports: list[str],
    precisions: tuple[str, ...],
    batches: tuple[int, ...],
) -> None:
    """Build the engines that the board lacks. Raises DhoxError where --device needs one and there is none."""
    if not exports:
        return
    lines = Lines()
    asked = json.dumps({"exports": exports, "precisions": list(precisions), "batches": list(batches)})
    status, tail = board.run([python, "-m", "dhox.bench.board_engines", asked], environment, run, lines)
    if status and device in TENSORRT_DEVICES:
        raise failed(board.host, status, lines.error, tail)
    if status:
        say(f"No TensorRT engines on {board.host}: {lines.error or (tail[-1] if tail else status)}")


def failed(host: str, status: int, error: str | None, tail: list[str]) -> DhoxError:
    """What a command there said before it failed, with its exit code."""
    if error is None:
        last = next((line for line in reversed(tail) if line.strip()), "it said nothing")
        return DhoxError(f"dhox on {host} ended with status {status}: {last}. Run the same command again.")
    kind = {2: UsageError, 3: GateFailedError}.get(status, DhoxError)
    return kind(f"On {host}: {error}")


def read_content(files: dict[str, bytes]) -> dict[str, Any] | None:
    """bench.json from the board; None where it holds no results."""
    try:
        content: dict[str, Any] = json.loads(files[BENCH_FILE])
    except (KeyError, ValueError):
        return None
    if content.get("schema") != BENCH_SCHEMA or "latency" not in content:
        return None
    # Killed there between two batch sizes, it still says that it runs.
    return content | {"status": "interrupted"} if content.get("status") == "running" else content


def replace_texts(value: Any, texts: dict[str, str]) -> Any:
    """JSON with every occurrence of some texts replaced."""
    if isinstance(value, dict):
        return {key: replace_texts(one, texts) for key, one in value.items()}
    if isinstance(value, list):
        return [replace_texts(one, texts) for one in value]
    if isinstance(value, str):
        for there, here in texts.items():
            value = value.replace(there, here)
    return value
