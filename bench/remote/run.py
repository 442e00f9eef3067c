"""`dhox bench --host`: the same command on a board, over ssh.

The board keeps what was copied, its packages and its engines, so that a second run copies nothing. Nothing is left
running there, whatever ends this process or the connection.
"""

from __future__ import annotations

import json
import re
import secrets
import signal
import tempfile
from datetime import datetime
from pathlib import Path

from dhox.artefacts.files import BENCH_FILE, BENCH_SCHEMA, EXPORT_FILE, check_output
from dhox.artefacts.remote import Probe, Remote
from dhox.bench.accuracy import evaluation_items
from dhox.bench.bench_models import Subject, open_subjects
from dhox.bench.evaluate import export_ledger
from dhox.bench.remote.answers import Refusal, read_answer
from dhox.bench.remote.board_environment import add_packages, environment_of
from dhox.bench.remote.bundle import Bundle, add_images, add_models
from dhox.bench.remote.link import INTERRUPTED, Board
from dhox.bench.remote.results import bring, plain, said_to_remain
from dhox.bench.remote.rsync import push
from dhox.bench.run import BenchResult, default_out
from dhox.console import progress_bar, say
from dhox.data.dataset import Item, data_address
from dhox.errors import ERROR_LINE, DhoxError, StoppedError, UsageError
from dhox.evidence.device_ledger import ledger_items

NOT_THERE = (
    "Next: ",
    "Report: ",
    "No report.html: ",
    f"bench/{BENCH_FILE}",
)  # lines about files: they are written here
POWER_MODES = "--power-modes"
EXPECTED = (0, 3, INTERRUPTED)  # exit statuses of a bench with results: done, a failed gate, interrupted
KILLED: dict[int, str] = {
    signal.SIGKILL: "SIGKILL; probably its memory was full", signal.SIGSEGV: "SIGSEGV, a fault in a library",
    signal.SIGBUS: "SIGBUS, a fault in a library", signal.SIGABRT: "SIGABRT, a fault in a library",
}  # fmt: skip
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
    said = Output()
    try:
        with tempfile.TemporaryDirectory(prefix="dhox-") as folder, Board(host, python) as board:
            bundle = Bundle(Path(folder))
            places, address = gather(bundle, paths, contract, data, subjects)
            probe = board.probe()
            say(f"{host} is {describe(probe)}")
            out = out or default_out(subjects[0]) / f"{plain(probe.host)}-{datetime.now():%Y%m%d-%H%M%S}"
            check_place(out, POWER_MODES in arguments, overwrite)
            packages = add_packages(bundle, host, probe)
            copy(board, bundle, probe)
            there = {here: f"{probe.store}/trees/{place}" for here, place in places.items()}
            models = [there[str(path.absolute())] for path in paths]
            words = [*models, *arguments, f"--device={device}", "--out=bench"]
            words += [f"--contract={there[str(contract.absolute())]}"] if contract else []
            words += [f"--data={there[address]}"] if address in there else []
            engines = {
                "exports": [place for path, place in zip(paths, models, strict=True) if (path / EXPORT_FILE).is_file()],
                "precisions": precisions, "batches": batches, "needed": device in TENSORRT_DEVICES,
            }  # fmt: skip
            asked = {"engines": engines if device != "cpu" and probe.tensorrt.works else None, "words": words}
            command = [probe.python.path, "-m", "dhox.cli.on_board", json.dumps(asked)]
            run = secrets.token_hex(8)
            results_there = f"{probe.store}/runs/{run}"
            remote = Remote(host=host, python=python, probe=probe, paths=there)
            with said_to_remain(host, results_there):
                status = board.run(command, environment_of(probe.store, packages), run, said)
                results = bring(board, results_there, out, remote, overwrite)
            board.forget(results_there)
    except KeyboardInterrupt as err:
        raise StoppedError("Interrupted.", f"Run the same command again: what was copied to {host} is there.") from err
    if not results and status == INTERRUPTED:
        raise StoppedError(f"Interrupted before anything was measured on {host}.", "Run the same command again.")
    problem = None if results and status in EXPECTED else said.failure(host, status)
    if problem is not None and not results:
        raise problem
    return results, problem


def gather(
    bundle: Bundle, paths: list[Path], contract: Path | None, data: Path | None, subjects: list[Subject]
) -> tuple[dict[str, str], str]:
    """Put what the bench reads into the bundle: path here -> place below the board's trees; and DATA's path here."""
    items, where, _ = evaluation_items(data, subjects)
    places = {str(path.absolute()): place for path, place in add_models(bundle, paths, contract).items()}
    address = data_address(where) if where else ""
    images = add_images(bundle, address, items, ledger_images(subjects, where))
    return places | ({address: images} if images else {}), address


def ledger_images(subjects: list[Subject], where: Path | None) -> list[Item]:
    """The images of the ledgers of all exports, each once."""
    found: dict[str, Item] = {}
    for subject in subjects:
        if subject.export is not None and where is not None:
            items, _ = ledger_items(where, subject.classes, export_ledger(subject))
            found |= {item.name: item for item in items}
    return list(found.values())


def check_one_data(subjects: list[Subject]) -> None:
    """Raise DhoxError for exports of several DATA: the board gets one set of images, known by their names."""
    found = sorted({subject.manifest.data for subject in subjects if subject.manifest})
    if len(found) > 1:
        raise DhoxError(
            f"The exports were made from different DATA ({', '.join(found)}).",
            "Give --data with the images to judge all of them on, or measure them one after the other.",
        )


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


def describe(probe: Probe) -> str:
    """A board in one line."""
    trt, ort = probe.tensorrt, probe.onnxruntime
    parts = [
        probe.texts["/proc/device-tree/model"] or probe.host, probe.machine,
        f"Python {'.'.join(map(str, probe.python.version))}",
        f"TensorRT {trt.found}" if trt.works else f"no TensorRT ({trt.found})",
        f"its own onnxruntime {ort.found.split()[0]}" if ort.works else "no onnxruntime of its own",
    ]  # fmt: skip
    return ", ".join(parts)


def copy(board: Board, bundle: Bundle, probe: Probe) -> None:
    """Bring the board what it lacks."""
    board.prepare(bundle.trees)
    free = f"{probe.free_bytes / 1e6:,.0f} MB are free there"
    say(f"Comparing {bundle.files:,} files, {bundle.bytes / 1e6:,.1f} MB, with {board.host} ({free})")
    with progress_bar(f"to {board.host}, files", bundle.files) as advance:
        files, size = push(board.connection, bundle.folder, probe.store, advance)
    say(f"Copied {files:,} files, {size / 1e6:,.1f} MB ({bundle.files - files:,} were there already)")


class Output:
    """Shows what the command there writes; its error is kept, and its last line."""

    def __init__(self) -> None:
        self.error: Refusal | None = None
        self.last = "it said nothing"

    def __call__(self, line: str) -> None:
        """Take one line."""
        if line.startswith(ERROR_LINE):
            self.error = read_answer(line.removeprefix(ERROR_LINE).encode(), Refusal)
        elif not line.startswith(NOT_THERE):
            say(line)
            self.last = line.strip() or self.last

    def failure(self, host: str, status: int) -> DhoxError:
        """Why the command failed, as the same kind of error."""
        if self.error is not None:
            return self.error.error(host)
        if -status in KILLED:
            return DhoxError(
                f"dhox on {host} was killed ({KILLED[-status]}).",
                "Look at `dmesg` there, free memory or leave models out, and run the same command again.",
            )
        return DhoxError(f"dhox on {host} ended with status {status}: {self.last}.", "Run the same command again.")
