"""`dhox bench --host` and `dhox doctor --host`: the same commands on a board, over ssh.

The board keeps what was copied, its packages and its engines, so that a second run copies nothing. Nothing is left
running there, whatever ends this process or the connection.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import shlex
import signal
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from dhox.artefacts.files import (
    BENCH_FILE,
    BENCH_SCHEMA,
    EXPORT_FILE,
    check_output,
    output_directory,
    write_bytes,
    write_json,
)
from dhox.bench.accuracy import evaluation_items
from dhox.bench.bench_models import Subject, open_subjects
from dhox.bench.evaluate import export_ledger
from dhox.bench.remote.answers import BENCH, FINDINGS, fits, read_answer
from dhox.bench.remote.board_environment import dhox_files, folder_files, target_of, wheel_folder
from dhox.bench.remote.bundle import Shipment, add_images, add_models
from dhox.bench.remote.link import INTERRUPTED, Board
from dhox.bench.run import BenchResult, default_out
from dhox.console import console, progress_bar, say
from dhox.data.dataset import Item, data_address
from dhox.errors import DhoxError, GateFailedError, StoppedError, UsageError
from dhox.evidence.device_ledger import ledger_items

ERROR = "Error: "  # how a dhox command begins its one message
NOT_THERE = (
    "Next: ",
    "Report: ",
    "No report.html: ",
    f"bench/{BENCH_FILE}",
)  # its lines about files: those are written here
POWER_MODES = "--power-modes"
EXPECTED = (0, 3, INTERRUPTED)  # exit statuses of a bench with results: done, a failed gate, interrupted
KILLED: dict[int, str] = {
    signal.SIGKILL: "SIGKILL; probably its memory was full", signal.SIGSEGV: "SIGSEGV, a fault in a library",
    signal.SIGBUS: "SIGBUS, a fault in a library", signal.SIGABRT: "SIGABRT, a fault in a library",
}  # fmt: skip
BAR = "\N{BOX DRAWINGS HEAVY HORIZONTAL}"  # of progress bars
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
) -> tuple[list[BenchResult], DhoxError | None]:
    """Measure models on a board, and write the bench directory here (one per power mode with --power-modes).

    `host`: as for ssh. `paths`, `contract`, `data`, `out`: on this machine, as `dhox.bench.run.bench` takes them.
    `arguments`: option words for `dhox bench` there, beside --device, --out, --data and --contract. `precisions`,
    `batches`: what engines are built for. `python`: the interpreter there. bench.json gets the paths of this machine in
    place of the board's, and a section `remote`. Ctrl-C ends the bench there in order and keeps what it had (status
    interrupted). The error: what ended the bench there after it wrote results. Raises DhoxError with one message for
    everything that the board, the connection or pip refuse; where results remain on the board, it says how to get them.
    """
    if any(re.match("--runner=torch(:|$)", word) for word in arguments):
        raise UsageError(
            "--runner torch needs torch, which --host does not take along.", "Leave it out, or bench there."
        )
    subjects = open_subjects(paths, contract, precisions)
    if data is None:
        check_one_data(subjects)
    items, where, _ = evaluation_items(data, subjects)
    shipment = Shipment()
    places, agreed = add_models(shipment, paths, contract)
    images = add_images(shipment, items, judges_of(subjects, where))
    try:
        with Board(host, python) as board:
            probe = board.probe()
            say(f"{host} is {describe(probe)}")
            out = out or default_out(subjects[0]) / f"{plain(probe['host'])}-{datetime.now():%Y%m%d-%H%M%S}"
            check_place(out, POWER_MODES in arguments, overwrite)
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
            local = {f"{trees}/{place}": str(path.absolute()) for path, place in places.items()}
            local |= {f"{trees}/{agreed}": str(contract.absolute())} if agreed and contract else {}
            local |= {f"{trees}/{images}": data_address(where)} if images and where else {}
            moved = {mine: there for there, mine in local.items()}
            remote = {"host": host, "python": python, "probe": probe, "paths": moved}
            lines = Lines()
            with said_to_remain(host, f"{probe['store']}/runs/{run}"):
                command = [probe["python"]["path"], "-m", "dhox", "bench", *words]
                status, tail = board.run(command, environment, run, lines)
                results = bring(board, run, out, local, remote, overwrite)
            board.forget(run)
    except KeyboardInterrupt as err:
        raise StoppedError("Interrupted.", f"Run the same command again: what was copied to {host} is there.") from err
    if not results and status == INTERRUPTED:
        raise StoppedError(f"Interrupted before anything was measured on {host}.", "Run the same command again.")
    problem = None if results and status in EXPECTED else failed(host, status, lines.error, tail)
    if problem is not None and not results:
        raise problem
    return results, problem


def check_place(out: Path, modes: bool, overwrite: bool) -> None:
    """Raise DhoxError where results could not be written, before they are measured."""
    for place in [one for one in out.glob("[0-9]*-*") if one.suffix != ".partial"] if modes else [out]:
        check_output(place, BENCH_FILE, BENCH_SCHEMA, overwrite)
    there = out.absolute().parent
    while not there.exists():
        there = there.parent
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as err:
        raise DhoxError(f"Could not write to {there}: {err.strerror}.", "Choose another --out.") from err


@contextlib.contextmanager
def said_to_remain(host: str, folder: str) -> Iterator[None]:
    """Every error of the block says that results may lie in a folder of the board, and how to get them."""
    address = f"scp{host[3:].rstrip('/')}/{folder}" if host.startswith("ssh://") else f"{host}:{folder}"
    remain = f"What was measured lies there in {folder}; `scp -r {shlex.quote(address)} .` brings it here."
    try:
        yield
    except KeyboardInterrupt as err:
        raise StoppedError(f"Interrupted; {host} ends what it was running.", f"{remain}") from err
    except DhoxError as err:
        raise type(err)(err.reason, f"{err.fix} {remain}") from err
    except OSError as err:
        raise DhoxError(f"The results could not be written here ({err}).", f"{remain}") from err


def bring(
    board: Board, run: str, out: Path, local: dict[str, str], remote: dict[str, Any], overwrite: bool
) -> list[BenchResult]:
    """Write the benches of a run here. `local`: path there -> path here. Raises DhoxError where that fails."""
    results = []
    for mode, (found, others) in benches_of(board.collect(run)).items():
        content = replace_texts(found, local) | {"remote": remote}
        place = out / plain(mode) if mode else out
        with output_directory(place, BENCH_FILE, BENCH_SCHEMA, overwrite) as folder:
            for name, data in others.items():
                write_bytes(folder / name, data)
            write_json(folder / BENCH_FILE, content)
        say(f"Results of {board.host}: {place}")
        results.append(BenchResult(place, content, all(row["passed"] for row in content["golden"])))
    return results


def examine_board(host: str, python: str = "python3") -> dict[str, Any]:
    """What a board is and can do: its `probe`, and the `findings` of `dhox doctor` there once a bench prepared it.

    `findings` is None before, with the reason in `note`. Raises DhoxError as `bench_remote` does.
    """
    with Board(host, python) as board:
        probe = board.probe()
        content: dict[str, Any] = {"host": host, "probe": probe, "findings": None, "note": None}
        if not probe["environment"]:
            return content | {"note": not_prepared(probe)}
        status, out, said = board.look(*dhox_there(probe, ["doctor", "--json"]))
    try:
        findings = read_answer(out)
    except ValueError:
        findings = None
    if fits(findings, FINDINGS):
        return content | {"findings": [{key: row[key] for key in FINDINGS[0]} for row in findings]}
    reason = last_line(said.splitlines()) or f"status {status}"
    return content | {"note": f"dhox there does not run ({reason}): `dhox bench --host` copies it again"}


def restore_board(host: str, python: str = "python3") -> None:
    """`dhox doctor --restore-power-mode` on a board: what a killed bench there left behind. Raises DhoxError."""
    with Board(host, python) as board:
        probe = board.probe()
        if not probe["environment"]:
            raise DhoxError(f"{host} is not prepared yet for its Python.", not_prepared(probe))
        status, out, said = board.look(*dhox_there(probe, ["doctor", "--restore-power-mode"]))
    lines = Lines()
    for line in [*out.splitlines(), *said.splitlines()]:
        lines(line)
    if status:
        raise failed(host, status, lines.error, said.splitlines())


def not_prepared(probe: dict[str, Any]) -> str:
    """What to do before dhox runs with this Python of the board."""
    version = "{}.{}".format(*probe["python"]["version"])
    return f"not prepared yet for its Python {version}: the first `dhox bench --host` copies what dhox needs there"


def dhox_there(probe: dict[str, Any], words: list[str]) -> tuple[list[str], dict[str, str]]:
    """A command of dhox with the packages that the last bench brought there, and its environment."""
    environment = environment_of(f"{probe['store']}/trees", probe["environment"])
    return [probe["python"]["path"], "-m", "dhox", *words], environment


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


def check_one_data(subjects: list[Subject]) -> None:
    """Raise DhoxError for exports of several DATA: the board gets one set of images, known by their names."""
    found = sorted({subject.manifest["data"] for subject in subjects if subject.manifest})
    if len(found) > 1:
        raise DhoxError(
            f"The exports were made from different DATA ({', '.join(found)}).",
            "Give --data with the images to judge all of them on, or measure them one after the other.",
        )


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
    model = probe["texts"]["/proc/device-tree/model"]
    version = ".".join(map(str, probe["python"]["version"]))
    trt, ort = probe["tensorrt"], probe["onnxruntime"]
    parts = [
        model or probe["host"], probe["machine"], f"Python {version}",
        f"TensorRT {trt['found']}" if trt["works"] else f"no TensorRT ({trt['found']})",
        f"its own onnxruntime {ort['found'].split()[0]}" if ort["works"] else "no onnxruntime of its own",
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
    lacking = set(board.ask("missing", {"missing": [str]}, blobs=shipment.sizes)["missing"])
    sizes = {name: size for name, size in shipment.sizes.items() if name in lacking}
    there = len(shipment.sizes) - len(sizes)
    say(f"Copying {len(sizes):,} files, {sum(sizes.values()) / 1e6:,.1f} MB ({there:,} are there already)")
    if sizes:
        with progress_bar(f"to {board.host}, files", len(sizes)) as advance:
            board.send(sizes, shipment.open, advance)
    trees: str = board.ask("place", {"trees": str}, trees=shipment.trees, environment=packages)["trees"]
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
    status, tail = board.run([python, "-m", "dhox.bench.remote.board_engines", asked], environment, run, lines)
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    if status and device in TENSORRT_DEVICES:
        raise failed(board.host, status, lines.error, tail)
    if status:
        say(f"No TensorRT engines on {board.host}: {lines.error or last_line(tail) or status}")


def failed(host: str, status: int, error: str | None, tail: list[str]) -> DhoxError:
    """What a command there said before it failed, with its exit code."""
    if error is not None:
        kind = {2: UsageError, 3: GateFailedError}.get(status, DhoxError)
        return kind(f"On {host}: {error}")
    killed = KILLED.get(-status)
    if killed is not None:
        return DhoxError(
            f"dhox on {host} was killed ({killed}).",
            "Look at `dmesg` there, free memory or leave models out, and run the same command again.",
        )
    said = last_line(tail) or "it said nothing"
    return DhoxError(f"dhox on {host} ended with status {status}: {said}.", "Run the same command again.")


def last_line(lines: list[str]) -> str | None:
    """The last line that says something; no progress bar does."""
    return next((line.strip() for line in reversed(lines) if line.strip() and BAR not in line), None)


def benches_of(files: dict[str, bytes]) -> dict[str, tuple[dict[str, Any], dict[str, bytes]]]:
    """The benches among the files of a run: power mode ("" without) -> bench.json, and the other files by name.

    One that did not come to its end lies in a folder that ends with .partial. Raises DhoxError for a bench.json that
    dhox does not write.
    """
    found = {}
    for path in sorted(files):
        folder, name = PurePosixPath(path).parent, PurePosixPath(path).name
        content = read_content(files[path]) if name == BENCH_FILE else None
        if content is None:
            continue
        beside = {PurePosixPath(other): data for other, data in files.items()}
        others = {one.name: data for one, data in beside.items() if one.parent == folder and one.name != BENCH_FILE}
        parts = [part.removesuffix(".partial") for part in folder.parts]
        found[parts[1] if len(parts) > 1 else ""] = (content, others)
    return found


def read_content(text: bytes) -> dict[str, Any] | None:
    """bench.json from the board; None where it holds no results yet. Raises DhoxError where dhox did not write it."""
    try:
        content = read_answer(text)
    except ValueError as err:
        raise DhoxError(f"The {BENCH_FILE} of the board is damaged ({err}).", "Run the same command again.") from err
    if fits(content, {"status": str}) and "latency" not in content:
        return None
    if not fits(content, BENCH) or content.get("schema") != BENCH_SCHEMA:
        raise DhoxError(f"The {BENCH_FILE} of the board does not hold what dhox writes.", "Run the same command again.")
    # Killed there between two batch sizes, it still says that it runs.
    return dict(content) | {"status": "complete" if content["status"] == "complete" else "interrupted"}


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
