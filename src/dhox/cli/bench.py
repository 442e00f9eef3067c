"""The bench command. Nothing heavy is imported before it runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dhox.cli.common import (
    Overwrite,
    Sysroot,
    check_choice,
    check_host_options,
    find_newest,
    option_words,
    say_report,
    set_sysroot,
)
from dhox.errors import StoppedError, UsageError
from dhox.system.machine import DEVICES

if TYPE_CHECKING:
    from dhox.bench.run import BenchResult

# Options that --host does not pass on.
HERE = {"device", "contract", "data", "out", "overwrite", "host", "remote_python"}


def bench(
    context: typer.Context,
    models: Annotated[list[Path] | None, typer.Argument(help="Export directories, model files of exports, or ONNX files with --contract; several are measured interleaved.", metavar="EXPORT|MODEL", show_default="the newest export below here")] = None,
    device: Annotated[str, typer.Option(help="Where to measure; jetson never falls back to the CPU.", metavar="|".join(DEVICES))] = "auto",
    runner: Annotated[list[str] | None, typer.Option(help="What runs the model: onnxruntime, ort-tensorrt, tensorrt or torch; options graph (CUDA graph) and nhwc, as in onnxruntime:graph+nhwc; repeatable.", show_default="by device", metavar="NAME[:OPTION]")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="Artefacts of the exports; repeatable.", show_default="all", metavar="fp32|fp16|int8")] = None,
    out: Annotated[Path | None, typer.Option(help="Bench directory.", show_default="EXPORT/../bench/HOST-TIME")] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes.", metavar="N,N,...")] = "1,8",
    scope: Annotated[str, typer.Option(help="What lies between the readings of the clock: device (input and output there), e2e (pixels in host memory to probabilities), pipeline (encoded images to probabilities).", metavar="NAME,...")] = "device,e2e,pipeline",
    duration: Annotated[float, typer.Option(help="Seconds of timed calls per model, runner, batch and scope, in 40 rounds.", min=0.05, max=3600)] = 4.0,
    energy: Annotated[float, typer.Option(help="Seconds of the window in which the energy of each model, runner and batch is measured, where a sensor can be read; 0: not measured.", min=0.0, max=3600)] = 30.0,
    streams: Annotated[str | None, typer.Option(help="Throughput of so many runners at once.", show_default="not measured", metavar="N,N,...")] = None,
    scenario: Annotated[str | None, typer.Option(help="Cross-check with MLPerf's LoadGen (no MLPerf result).", show_default="none", metavar="singlestream|multistream|server|offline")] = None,
    contract: Annotated[Path | None, typer.Option(help="Contract of a model of another tool (docs/sweep.md).", show_default="none")] = None,
    data: Annotated[Path | None, typer.Option(help="DATA with the test split.", show_default="where the export's run found it")] = None,
    trust_engine: Annotated[bool, typer.Option("--trust-engine", help="Load a TensorRT engine that you did not build here. It can run any code.")] = False,
    power_modes: Annotated[bool, typer.Option("--power-modes", help="On a Jetson: measure in every power mode that needs no reboot, into OUT/ID-NAME; sets modes by sudo -n nvpmodel, and the present one again at the end.")] = False,
    host: Annotated[str | None, typer.Option(help="Measure there, over ssh: what is needed is copied, and the results come back.", show_default="this machine", metavar="[USER@]HOST")] = None,
    remote_python: Annotated[str | None, typer.Option(help="With --host: the Python to use there, 3.10 or newer.", show_default="python3")] = None,
    sysroot: Sysroot = None,
    overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Measure latency, throughput, energy and accuracy of the very files that ship. Needs no torch."""
    from dhox.artefacts.files import EXPORT_FILE, EXPORT_SCHEMA
    from dhox.bench.crosscheck.loadgen import SCENARIOS
    from dhox.bench.run import bench as run_bench
    from dhox.bench.scopes import SCOPES
    from dhox.cli.power_modes import bench_modes

    PRECISIONS = ("fp32", "fp16", "int8")
    from dhox.reports.bench.tables import print_bench

    check_host_options(host, remote_python)
    if host is not None and sysroot is not None:
        raise UsageError("--host looks at a board as it is.", "Leave out --sysroot, or leave out --host.")
    set_sysroot(sysroot)
    check_choice("--device", device, DEVICES)
    if scenario is not None:
        check_choice("--scenario", scenario, SCENARIOS)
    for name in precision or []:
        check_choice("--precision", name, PRECISIONS)
    scopes = tuple(dict.fromkeys(scope.split(",")))
    for name in scopes:
        check_choice("--scope", name, tuple(SCOPES))
    paths = models or [find_newest(EXPORT_FILE, EXPORT_SCHEMA, "export", "dhox export RUN")]
    ended: Exception | None = None
    if host is not None:
        from dhox.bench.remote.run import bench_remote

        results, ended = bench_remote(
            host, paths, option_words(context, HERE), out, device=device, contract=contract, data=data,
            precisions=tuple(precision or ()), batches=parse_numbers("--batch", batch), overwrite=overwrite,
            python=remote_python or "python3",
        )  # fmt: skip
    else:
        run = partial(
            run_bench, paths, device=device, runners=tuple(dict.fromkeys(runner or ())),
            precisions=tuple(dict.fromkeys(precision or ())), contract=contract,
            batches=parse_numbers("--batch", batch), scopes=scopes, duration_s=duration, energy_s=energy,
            streams=parse_numbers("--streams", streams) if streams else (), scenario=scenario, data=data,
            trust_engine=trust_engine, overwrite=overwrite,
        )  # fmt: skip
        results, ended = bench_modes(run, out, overwrite) if power_modes else ([run(out)], None)
        for result in results:
            print_bench(result.bench, result.content)
    finish(results, ended)


def finish(results: list[BenchResult], ended: Exception | None = None) -> None:
    """Write the reports, and raise what the exit code must say of the results; `ended`: what ended them early."""
    from dhox.errors import GateFailedError

    for result in results:
        say_report(result.bench)
    if ended is not None:
        raise ended
    failed = [result for result in results if not result.passed]
    if failed:
        raise GateFailedError(
            f"A model does not give its golden outputs there (see {failed[0].bench}/bench.json).",
            "Do not ship it: compare ONNX Runtime and Pillow versions with the exporting machine, then export again.",
        )
    if results and results[-1].content["status"] == "interrupted":
        raise StoppedError(
            "The bench was interrupted.", f"{results[-1].bench} holds what it measured; run it again for the rest."
        )


def parse_numbers(option: str, text: str) -> tuple[int, ...]:
    """`1,8,32` as numbers of at least 1, each once. Raises UsageError otherwise."""
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) >= 1 for word in words):
        raise UsageError(
            f"{option} {text} is not a list of whole numbers from 1.", f"Write for example {option} 1,8,32."
        )
    return tuple(dict.fromkeys(int(word) for word in words))
