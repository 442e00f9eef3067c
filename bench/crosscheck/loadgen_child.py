"""The process that LoadGen lives in: `python -m dhox.bench.crosscheck.loadgen_child SPEC.json OUT.json`.

LoadGen aborts the process that lets an exception out of a callback, so callbacks here never raise: they remember the
first error, answer their queries all the same, and the error is raised once LoadGen is done.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from math import expm1, log
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import numpy as np

from dhox.artefacts.files import read_json, read_npz, write_json
from dhox.bench.bench_models import open_subjects
from dhox.bench.crosscheck.loadgen import LOADGEN_SCHEMA, OFFLINE_BATCH, SAMPLES_PER_QUERY
from dhox.bench.rounds import warm_up
from dhox.bench.runners.runner import open_runner
from dhox.errors import DhoxError
from dhox.evidence.statistics import mean_interval

FEWEST_QUERIES = {"singlestream": 64, "multistream": 662, "server": 64}  # of LoadGen's early stopping
LONGEST_S = 3.0  # of one run, where so many queries would take longer
SERVER_LOAD = 0.5  # of what one stream can do
RATE_S = 0.5  # over which that is counted, after the warm-up

Answer = Callable[[list[int]], np.ndarray]  # image numbers [B] -> probabilities [B, C]


def main(spec: Path, out: Path) -> None:
    """Measure what SPEC.json says and write OUT.json; a user error becomes {"error": message}."""
    try:
        content = pairs_of(read_json(spec, LOADGEN_SCHEMA), read_npz(spec.parent / "pixels.npz")["pixels"], spec.parent)
    except DhoxError as err:
        content = {"error": str(err)}
    write_json(out, content)


def pairs_of(spec: dict[str, Any], pixels: np.ndarray, folder: Path) -> dict[str, Any]:
    """LoadGen and our loop in turns, in random order within each pair."""
    scenario, runner_name, duration_s = spec["scenario"], spec["runner"], spec["duration_s"]
    rng = np.random.default_rng(spec["seed"])
    contract = Path(spec["contract"]) if spec["contract"] else None
    (subject,) = open_subjects([Path(spec["file"])], contract)
    with closing(open_runner(subject, runner_name, spec["device"], spec["trust_engine"])) as runner:

        def answer(numbers: list[int]) -> np.ndarray:
            # One image is a view, so that both loops add nothing to the inference.
            chosen = pixels[numbers[0] : numbers[0] + 1] if len(numbers) == 1 else pixels[numbers]
            return subject.tensors.probs(runner.infer(subject.tensors.graph_input(chosen)))

        per_call = {"multistream": SAMPLES_PER_QUERY, "offline": OFFLINE_BATCH}.get(scenario, 1)
        one_call = rng.integers(0, len(pixels), per_call).tolist()
        warm_up(lambda: answer(one_call), LONGEST_S)
        call_s = mean_seconds(lambda: answer(one_call), RATE_S)
        queries = max(1, min(FEWEST_QUERIES.get(scenario, 1), int(LONGEST_S / call_s)))
        theirs, ours, reports = [], [], []
        for pair in range(spec["pairs"]):
            for whose in rng.permutation(["theirs", "ours"]):
                if whose == "ours":
                    ours.append(own_loop(answer, len(pixels), scenario, per_call, queries, duration_s, rng))
                else:
                    report = loadgen_run(answer, len(pixels), spec, per_call, queries, call_s, folder, pair)
                    reports.append(report)
                    theirs.append(report["value"])
    offline = scenario == "offline"
    return {
        "batch": per_call,
        "unit": "images/s" if offline else "ms",
        **paired_numbers(theirs, ours),
        "pairs": len(ours),
        "queries": sum(report["queries"] for report in reports),
        "valid": sum(report["valid"] for report in reports),
        "reasons": sorted({reason for report in reports for reason in report["reasons"]}),
        "p99_ms": None if offline else median(report["p99_ms"] for report in reports),
        "target_qps": SERVER_LOAD / call_s if scenario == "server" else None,
        "latency_limit_ms": spec["latency_limit_ms"] if scenario == "server" else None,
        "version": version("mlcommons-loadgen"),
    }


def mean_seconds(call: Callable[[], object], duration_s: float) -> float:
    """Seconds per call over `duration_s`: what a queue is served at. The median of calls hides the slow ones."""
    begin, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() < begin + duration_s:
        call()
        calls += 1
    return (time.perf_counter() - begin) / calls


def paired_numbers(theirs: list[float], ours: list[float]) -> dict[str, Any]:
    """The geometric mean of either, and in percent by how much theirs is above ours, with its 95 % interval over the
    pairs (Student's t on the logarithms of their ratios): one statistic, so that the three numbers fit each other."""
    mean, ends = mean_interval([log(their / our) for their, our in zip(theirs, ours, strict=True)])
    interval = None if ends is None else [100 * expm1(end) for end in ends]
    return {
        "theirs": geometric_mean(theirs),
        "ours": geometric_mean(ours),
        "difference_percent": {"mean": 100 * expm1(mean), "interval": interval},
    }


def own_loop(
    answer: Answer, images: int, scenario: str, per_call: int, queries: int, duration_s: float, rng: np.random.Generator
) -> float:
    """Our median in ms per query, or images per second for offline."""
    numbers = rng.integers(0, images, (max(queries, 1024), per_call)).tolist()
    clock, place = time.perf_counter_ns, 0
    times: list[int] = []
    end = time.perf_counter() + duration_s
    while len(times) < queries or time.perf_counter() < end:
        one = numbers[place % len(numbers)]
        start = clock()
        answer(one)
        times.append(clock() - start)
        place += 1
    if scenario == "offline":
        return per_call * len(times) / (sum(times) / 1e9)
    return median(times) / 1e6


def loadgen_run(
    answer: Answer,
    images: int,
    spec: dict[str, Any],
    per_call: int,
    queries: int,
    call_s: float,
    folder: Path,
    number: int,
) -> dict[str, Any]:
    """One test of LoadGen: its median in ms per query (offline: images per second), p99, and whether it is valid."""
    import mlperf_loadgen as lg

    errors: list[Exception] = []
    reply = np.zeros(1, np.float32)  # alive until LoadGen is done with its address
    address, size = reply.ctypes.data, reply.nbytes

    def issue(samples: list[Any]) -> None:
        for first in range(0, len(samples), per_call):
            chunk = samples[first : first + per_call]
            try:
                if not errors:
                    answer([sample.index for sample in chunk])
            except Exception as err:
                errors.append(err)
            lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, address, size) for sample in chunk])

    def nothing(*_: Any) -> None:
        """All images are in memory, and every query is answered when it is issued."""

    settings = lg.TestSettings()
    names = {"singlestream": "SingleStream", "multistream": "MultiStream", "server": "Server", "offline": "Offline"}
    settings.scenario = getattr(lg.TestScenario, names[spec["scenario"]])
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms = int(1000 * spec["duration_s"])
    settings.min_query_count = queries
    settings.single_stream_expected_latency_ns = settings.multi_stream_expected_latency_ns = int(1e9 * call_s)
    settings.multi_stream_samples_per_query = SAMPLES_PER_QUERY
    settings.server_target_qps = SERVER_LOAD / call_s
    settings.server_target_latency_ns = int(1e6 * spec["latency_limit_ms"])
    # Offline generates its one query in advance: what was expected to take min_duration is all that there is.
    settings.offline_expected_qps = 1.1 * per_call / call_s
    settings.sample_index_rng_seed, settings.qsl_rng_seed, settings.schedule_rng_seed = (
        spec["seed"] + 3 * number + 1,
        spec["seed"] + 3 * number + 2,
        spec["seed"] + 3 * number + 3,
    )
    logs = lg.LogSettings()
    logs.enable_trace = False
    logs.log_output.outdir = str(folder)
    logs.log_output.prefix = f"run{number}_"
    logs.log_output.copy_summary_to_stdout = False
    sut, qsl = lg.ConstructSUT(issue, nothing), lg.ConstructQSL(images, images, nothing, nothing)
    try:
        lg.StartTestWithLogSettings(sut, qsl, settings, logs)
    finally:
        lg.DestroyQSL(qsl)
        lg.DestroySUT(sut)
    if errors:
        raise errors[0]
    return read_report((folder / f"run{number}_detail.txt").read_text(encoding="utf-8"), spec["scenario"])


def read_report(detail: str, scenario: str) -> dict[str, Any]:
    """What LoadGen's mlperf_log_detail.txt says: `value` (median in ms per query, offline images per second),
    `p99_ms`, `queries`, `valid` and the `reasons` where it is not. Raises DhoxError for a log without a result."""
    found: dict[str, Any] = {}
    reasons = []
    for line in detail.splitlines():
        if line.startswith(":::MLLOG "):
            entry = json.loads(line.removeprefix(":::MLLOG "))
            if entry["key"] == "result_invalid_reason":
                reasons.append(str(entry["value"]).strip())
            found[entry["key"]] = entry["value"]
    query = "per_query_latency_ns" if scenario == "multistream" else "latency_ns"
    names = {"p50": f"result_50.00_percentile_{query}", "p99": f"result_99.00_percentile_{query}"}
    value = "result_samples_per_second" if scenario == "offline" else names["p50"]
    if value not in found or "result_validity" not in found:
        raise DhoxError(f"LoadGen's log has no {value}.", "Run it again with a longer duration.")
    return {
        "value": found[value] if scenario == "offline" else found[value] / 1e6,
        "p99_ms": found[names["p99"]] / 1e6 if names["p99"] in found else None,
        "queries": found["result_query_count"],
        "valid": found["result_validity"] == "VALID",
        "reasons": reasons,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
