"""`dhox bench --host`: the same command on a board, over ssh.

The board keeps what was copied, its packages and its engines, so that a second run copies nothing. Nothing is left
running there, whatever ends this process or the connection.
"""

from __future__ import annotations

import secrets
import signal
import tempfile
from datetime import datetime
from pathlib import Path

import msgspec

from dhox.artefacts.files import BENCH_FILE, BENCH_SCHEMA, check_output
from dhox.artefacts.remote import Probe, Remote
from dhox.bench.accuracy import evaluation_images
from dhox.bench.bench_models import BenchModel, open_models
from dhox.bench.evaluate import export_ledger
from dhox.bench.options import BenchOptions
from dhox.bench.remote.answers import Refusal, read_answer
from dhox.bench.remote.board_environment import add_packages, environment_of
from dhox.bench.remote.bundle import Bundle, add_images, add_models
from dhox.bench.remote.link import INTERRUPTED, Board
from dhox.bench.remote.results import bring, plain, said_to_remain
from dhox.bench.remote.rsync import push
from dhox.bench.run import BenchResult, bench_folder
from dhox.console import say
from dhox.data.dataset import Item, data_address
from dhox.errors import ERROR_LINE, DhoxError, StoppedError, UsageError
from dhox.evidence.device_ledger import ledger_items
from dhox.models.export_directory import Export
from dhox.options.declare import flat, replaced
from dhox.progress import progress_bar

KILLED: dict[int, str] = {
    signal.SIGKILL: "SIGKILL; probably its memory was full", signal.SIGSEGV: "SIGSEGV, a fault in a library",
    signal.SIGBUS: "SIGBUS, a fault in a library", signal.SIGABRT: "SIGABRT, a fault in a library",
}  # fmt: skip


def bench_remote(paths: list[Path], options: BenchOptions) -> tuple[list[BenchResult], DhoxError | None]:
    """Measure models on the board `--host`, and write the bench directory here (one per power mode).

    `paths` and the paths of the options are of this machine. bench.json gets them in place of the board's, and a
    section `remote`. Ctrl-C ends the bench there in order and keeps what it had (status interrupted). The error: what
    ended the bench there after it wrote results. Raises DhoxError with one message for everything that the board, the
    connection or pip refuse; where results remain on the board, it says how to get them.
    """
    host, python = str(options.where.host), options.where.remote_python or "python3"
    if any(runner.partition(":")[0] == "torch" for runner in options.what.runner):
        raise UsageError(
            "--runner torch needs torch, which --host does not take along.", "Leave it out, or bench there."
        )
    models = open_models(paths, options.what.contract, options.what.precision)
    if options.what.data is None:
        check_one_data(models)
    said = Output()
    try:
        with tempfile.TemporaryDirectory(prefix="dhox-") as folder, Board(host, python) as board:
            bundle = Bundle(Path(folder))
            places, address = gather(bundle, paths, options, models)
            probe = board.probe()
            say(f"{host} is {describe(probe)}")
            name = f"{plain(probe.host)}-{datetime.now():%Y%m%d-%H%M%S}"
            out = options.output.out or bench_folder(models[0]) / name
            check_place(out, options)
            packages = add_packages(bundle, host, probe)
            copy(board, bundle, probe)
            there = {here: f"{probe.store}/trees/{place}" for here, place in places.items()}
            run = secrets.token_hex(8)
            results_there = f"{probe.store}/runs/{run}"
            remote = Remote(host=host, python=python, probe=probe, paths=there)
            with said_to_remain(host, results_there):
                asked = request(paths, options, there, address, engines=probe.tensorrt.works)
                command = [probe.python.path, "-m", "dhox.cli.on_board", asked]
                status = board.run(command, environment_of(probe.store, packages), run, said)
                results = bring(board, results_there, out, remote, options.output.overwrite)
            board.forget(results_there)
    except KeyboardInterrupt as err:
        raise StoppedError("Interrupted.", f"Run the same command again: what was copied to {host} is there.") from err
    if not results and status == INTERRUPTED:
        raise StoppedError(f"Interrupted before anything was measured on {host}.", "Run the same command again.")
    problem = None if results and status in {0, INTERRUPTED} else said.failure(host, status)
    if problem is not None and not results:
        raise problem
    return results, problem


def request(paths: list[Path], options: BenchOptions, there: dict[str, str], address: str, engines: bool) -> str:
    """What `dhox.cli.on_board` is asked for, with the paths that things have there."""
    contract = options.what.contract
    sent = replaced(
        options, host=None, remote_python=None, out=Path("bench"), overwrite=False,
        contract=there[str(contract.absolute())] if contract else None, data=there.get(address),
    )  # fmt: skip
    content = {"models": [there[str(path.absolute())] for path in paths], "options": flat(sent), "engines": engines}
    return msgspec.json.encode(content, enc_hook=str).decode()


def gather(
    bundle: Bundle, paths: list[Path], options: BenchOptions, models: list[BenchModel]
) -> tuple[dict[str, str], str]:
    """Put what the bench reads into the bundle: path here -> place below the board's trees; and DATA's path here."""
    places = {str(path.absolute()): one for path, one in add_models(bundle, paths, options.what.contract).items()}
    test = evaluation_images(options.what.data, models)
    address = data_address(test.data) if test.data else ""
    images = add_images(bundle, address, test.items, _ledger_images(models, test.data))
    return places | ({address: images} if images else {}), address


def _ledger_images(models: list[BenchModel], where: Path | None) -> list[Item]:
    """The images of the ledgers of all exports, each once."""
    found: dict[str, Item] = {}
    for model in models:
        if model.export is not None and model.manifest is not None and where is not None:
            images = Export(model.export, model.manifest).images()
            items, _ = ledger_items(where, model.classes, export_ledger(model), images)
            found |= {item.name: item for item in items}
    return list(found.values())


def check_one_data(models: list[BenchModel]) -> None:
    """Raise DhoxError for exports of several DATA: the board gets one set of images, known by their names."""
    found = sorted({model.manifest.data for model in models if model.manifest})
    if len(found) > 1:
        raise DhoxError(
            f"The exports were made from different DATA ({', '.join(found)}).",
            "Give --data with the images to judge all of them on, or measure them one after the other.",
        )


def check_place(out: Path, options: BenchOptions) -> None:
    """Raise DhoxError where results could not be written, before they are measured."""
    modes = [one for one in out.glob("[0-9]*-*") if one.suffix != ".partial"]
    for place in modes if options.where.power_modes else [out]:
        check_output(place, BENCH_FILE, BENCH_SCHEMA, options.output.overwrite)
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
    say(f"Comparing {bundle.files:,} files, {bundle.size / 1e6:,.1f} MB, with {board.host} ({free})")
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
        else:
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
