from __future__ import annotations

import json
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_example import JETSON, conditions, example
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict, replace
from plain_files import write_npz
from refusals import named, refuses

from dhox.artefacts.bench import Bench
from dhox.artefacts.files import BENCH_SCHEMA
from dhox.artefacts.machine import SetPowerMode, Spread
from dhox.artefacts.predictions import Answer, write_predictions
from dhox.artefacts.record import read_record, write_record
from dhox.artefacts.samples import Calls, Samples, write_samples
from dhox.bench.compare import compare, difference_interval, summary, verdict
from dhox.bench.latency_statistics import latency_statistics
from dhox.cli.main import main
from dhox.console import console
from dhox.errors import DhoxError, UsageError
from dhox.evidence.statistics import paired_lower_bound, wilson_interval
from dhox.reports.pages.compare import compare_page
from dhox.reports.terminal import show

DHOX = Path(sysconfig.get_path("scripts")) / "dhox"
LABELS = ["bag", "sandal"] * 100


def write_bench(
    folder: Path, *, factor: float = 1.0, noise: float = 0.01, wrong: Sequence[int] = (), seed: int = 0
) -> Path:
    """A bench of one model on one runner at batch 1 and 8, by dhox's own statistics; `wrong`: images misjudged."""
    base = example(folder, "cpu", models=("fp32",), batches=(1, 8))
    rng = np.random.default_rng(seed)
    rows, calls = [], {}
    for row in base.latency:
        if row.scope != "e2e":
            continue
        level = np.exp(rng.normal(0, noise, (40, 1)) + rng.normal(0, 0.01, (40, 20)))
        rounds = list((1e6 * factor * row.batch * level).astype(np.int64))
        calls[row.key] = Calls(rounds, np.arange(40.0))
        numbers = latency_statistics(rounds, row.batch, np.arange(40.0))
        rows.append(replace(row, **asdict(numbers)))
    correct = len(LABELS) - len(wrong)
    answer = replace(
        base.accuracy.rows[0], n=len(LABELS), correct=correct, accuracy=correct / len(LABELS),
        interval=wilson_interval(correct, len(LABELS)),
    )  # fmt: skip
    accuracy = replace(base.accuracy, rows=[answer])
    write_record(folder / "bench.json", replace(base, latency=rows, comparisons=[], streams=[], accuracy=accuracy))
    write_samples(folder / "samples.npz", Samples(calls, {}))
    answers = (Answer(label, "x" if i in wrong else label, 0.9) for i, label in enumerate(LABELS))
    told = (("fp32", "onnxruntime", f"{i}.png", one) for i, one in enumerate(answers))
    write_predictions(folder / "predictions.csv", told)
    return folder


def read_bench(folder: Path) -> Bench:
    return read_record(folder / "bench.json", Bench)


def change(folder: Path, **changes: Any) -> None:
    """Other fields of a bench, which stays a whole one."""
    write_record(folder / "bench.json", replace(read_bench(folder), **changes))


def damage(folder: Path, **changes: Any) -> None:
    """Other fields of bench.json as they are."""
    content = json.loads((folder / "bench.json").read_text())
    (folder / "bench.json").write_text(json.dumps(content | changes))


def test_a_bench_and_itself_differ_in_nothing(tmp_path: Path) -> None:
    old = write_bench(tmp_path / "old")
    found = compare(old, old / "bench.json", 1.0, 0)
    assert [row.ratio for row in found.latency] == [1, 1]
    assert all(row.interval[0] < 1 < row.interval[1] for row in found.latency)
    assert [(row.drop, row.gained, row.lost, row.mcnemar_p, row.verdict) for row in found.accuracy] == [
        (0, 0, 0, 1, "ok")
    ]
    assert (found.failures, found.undecided, found.warnings, found.not_compared) == ([], [], [], [])


def test_the_slowdown_gate_on_both_sides_of_its_limit(tmp_path: Path) -> None:
    old = write_bench(tmp_path / "old")
    new = write_bench(tmp_path / "new", factor=1.06, seed=1)
    ratios = [row.ratio for row in compare(old, new).latency]
    assert ratios == pytest.approx([1.06, 1.06], abs=0.01)
    assert [row.verdict for row in compare(old, new).latency] == ["slower", "slower"]
    assert compare(old, new, max_slowdown=max(ratios) + 1e-6).failures == []
    failed = compare(old, new, max_slowdown=max(ratios) - 1e-6)
    assert len(failed.failures) == 1
    assert named("fp32 by onnxruntime", failed.failures[0])
    assert {row.verdict for row in failed.latency} == {"slower", "too slow"}
    assert [row.verdict for row in compare(new, old, 1.05).latency] == ["faster", "faster"]


def test_what_noise_could_explain_is_undecided_and_says_how_to_go_on(tmp_path: Path) -> None:
    old = write_bench(tmp_path / "old", noise=0.3)
    new = write_bench(tmp_path / "new", noise=0.3, factor=1.08, seed=3)
    found = compare(old, new, max_slowdown=1.0)
    assert found.failures == []
    assert found.undecided
    assert all("longer --duration" in line for line in found.undecided)
    for row in found.latency:
        assert row.interval[0] <= 1 <= row.interval[1]


@given(st.floats(0.5, 2), st.floats(0.001, 0.5), st.one_of(st.none(), st.floats(1, 2)))
def test_the_rule_of_verdicts(ratio: float, half: float, limit: float | None) -> None:
    word = verdict(ratio, (ratio - half, ratio + half), limit)
    excludes = not ratio - half <= 1 <= ratio + half
    assert (word == "too slow") == (limit is not None and ratio > limit and excludes)
    assert (word == "undecided") == (limit is not None and ratio > limit and not excludes)
    if limit is None:
        assert word in ({"faster", "slower"} if excludes else {"no difference shown"})


three = st.lists(st.floats(0, 1), min_size=3, max_size=3).map(sorted)


@given(three, three)
def test_difference_intervals_hold_their_estimate_and_turn(first: list[float], second: list[float]) -> None:
    ends = (first[0], first[2]), (second[0], second[2])
    value, (low, high) = difference_interval((first[1], second[1]), ends)
    assert low <= value <= high
    back, (back_low, back_high) = difference_interval((second[1], first[1]), ends[::-1])
    assert (back, back_low, back_high) == pytest.approx((-value, -high, -low))


def test_newcombe_s_published_example() -> None:
    """56/70 and 48/80: 0.2 with 0.0524 to 0.3339 (Newcombe 1998, table II, row a, method 10)."""
    value, interval = difference_interval((48 / 80, 56 / 70), (wilson_interval(48, 80), wilson_interval(56, 70)))
    assert value == pytest.approx(0.2)
    assert interval == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_the_accuracy_gate_is_paired_on_the_same_images(tmp_path: Path) -> None:
    old = write_bench(tmp_path / "old", wrong=[0, 1, 2])
    new = write_bench(tmp_path / "new", wrong=[2, *range(10, 22)])
    (row,) = compare(old, new).accuracy
    assert row.paired
    assert (row.gained, row.lost) == (2, 12)
    assert row.drop == pytest.approx(5.0)
    assert row.mcnemar_p == pytest.approx(0.0129, abs=1e-3)
    assert not row.chance
    assert row.interval[0] < 5 < row.interval[1]
    assert row.bound == pytest.approx(-100 * paired_lower_bound(2, 12, 200))
    assert compare(old, new, None, row.bound).failures == []
    found = compare(old, new, None, 5.0)
    assert found.accuracy[0].verdict == "not shown"
    assert all(named(fact, found.failures[0]) for fact in ("5.00", f"{row.bound:.2f}"))
    found = compare(old, new, None, 4.99)
    assert found.accuracy[0].verdict == "too low"
    (failure,) = found.failures
    assert all(named(fact, failure) for fact in ("5.00", "4.99", "beyond chance"))
    little = write_bench(tmp_path / "little", wrong=[0, 1, 2, 3, 4])
    (failure,) = compare(old, little, None, 0.5).failures
    assert named("1.00", failure)
    assert not named("beyond chance", failure)


def test_other_images_are_compared_unpaired(tmp_path: Path) -> None:
    old, new = write_bench(tmp_path / "old"), write_bench(tmp_path / "new", wrong=[0])
    text = (new / "predictions.csv").read_text()
    (new / "predictions.csv").write_text(text.replace(",7.png,", ",other.png,"))
    (row,) = compare(old, new).accuracy
    assert (row.paired, row.gained, row.mcnemar_p) == (False, None, None)
    assert row.chance
    assert row.drop == pytest.approx(0.5)
    assert row.interval[0] < 0.5 < row.bound < row.interval[1]
    assert compare(old, new, None, row.bound).failures == []
    assert [one.verdict for one in compare(old, new, None, row.bound - 0.01).accuracy] == ["not shown"]
    (new / "predictions.csv").unlink()
    assert not compare(old, new).accuracy[0].paired
    (new / "predictions.csv").write_text("a,b\n1,2\n")
    with refuses("new/predictions.csv", "a, b", at="artefacts.predictions.read_predictions"):
        compare(old, new)


def test_without_samples_the_stored_intervals_serve(tmp_path: Path) -> None:
    old, new = write_bench(tmp_path / "old"), write_bench(tmp_path / "new", seed=2)
    sampled = compare(old, new)
    (new / "samples.npz").unlink()
    stored = compare(old, new)
    assert "samples.npz of both" in sampled.latency_from
    assert "missing" in stored.latency_from
    for one, other in zip(sampled.latency, stored.latency, strict=True):
        assert one.interval == pytest.approx(other.interval)  # the bench stored what its samples say
    write_npz(new / "samples.npz", other=np.arange(3))
    with refuses("new/samples.npz", "fp32_onnxruntime_1_e2e", at="artefacts.samples.taken", fix="bench.json"):
        compare(old, new)
    (new / "samples.npz").write_bytes(b"no")
    with refuses("new/samples.npz", "zip", at="artefacts.samples.read_samples", fix="bench.json"):
        compare(old, new)
    with refuses("old/samples.npz", at="bench.compare._open_side", fix="bench.json"):
        compare(old / "samples.npz", new)


def test_what_else_differs_is_said(tmp_path: Path) -> None:
    old, new = write_bench(tmp_path / "old"), write_bench(tmp_path / "new")
    seen, card = conditions("jetson"), read_bench(old).device
    board = replace(JETSON, power_mode=SetPowerMode(0, "15W"))
    other = replace(JETSON, power_mode=SetPowerMode(2, "MAXN_SUPER"))
    row, golden = read_bench(old).runners[0], read_bench(old).golden
    change(
        old, device=replace(card, jetson=board),
        conditions=replace(seen, gpu_clock_mhz=Spread(600.0, 600.0, 600.0), locked=True),
    )  # fmt: skip
    change(
        new, device=replace(card, jetson=other, host="board-2"), golden=[replace(golden[0], passed=False)],
        conditions=replace(seen, gpu_clock_mhz=Spread(1000.0, 1000.0, 1000.0), locked=False, throttled=["SwPowerCap"]),
        runners=[replace(row, facts=replace(row.facts, provider="CUDAExecutionProvider"))],
    )  # fmt: skip
    assert compare(old, new).warnings == [
        f"host: {card.host} then board-2",
        "power mode: 15W then MAXN_SUPER",
        "median GPU clock: 600 then 1,000 MHz",
        "clocks locked: yes then no",
        "the new bench was throttled: SwPowerCap",
        "fp32 by onnxruntime failed its golden check in the new bench",
        "provider of fp32 by onnxruntime: CPUExecutionProvider then CUDAExecutionProvider",
    ]


def test_flags_are_counted_over_the_rows_that_count(tmp_path: Path) -> None:
    old, new = write_bench(tmp_path / "old"), write_bench(tmp_path / "new")
    rows = [replace(row, flags=["unstable"]) for row in read_bench(new).latency]
    change(new, latency=[*rows, *[replace(row, runner="other", emulated="in fp32") for row in rows]])
    (new / "samples.npz").unlink()
    assert compare(old, new).warnings == ["the new bench flags 2 of 2 latencies: unstable"]


def test_rows_without_partner_are_listed_and_gates_need_rows(tmp_path: Path) -> None:
    old, new = write_bench(tmp_path / "old"), write_bench(tmp_path / "new")
    rows = read_bench(new).latency
    change(new, latency=[rows[0]])
    assert compare(old, new).not_compared == ["fp32 by onnxruntime, batch 8, e2e: only in the old bench"]
    change(new, latency=[replace(row, emulated="in fp32") for row in rows])
    assert compare(old, new).not_compared == ["times of fp32 by onnxruntime: its precision is emulated here"]
    with refuses("--max-slowdown", at="bench.compare.compare"):
        compare(old, new, max_slowdown=1.05)
    without = replace(read_bench(new).accuracy, rows=[])
    change(new, latency=[replace(row, runner="other") for row in rows], accuracy=without)
    with refuses("fp32 by onnxruntime", "2 rows", at="bench.compare.compare", fix="dhox bench"):
        compare(old, new)
    change(new, latency=rows)
    with refuses("--max-accuracy-drop", at="bench.compare.compare", fix="--data"):
        compare(old, new, max_accuracy_drop=0.5)


def test_a_gated_row_that_is_missing_or_wrong_fails(tmp_path: Path) -> None:
    old, new = write_bench(tmp_path / "old"), write_bench(tmp_path / "new")
    bench = read_bench(old)
    latency, (answer,), (golden,) = bench.latency, bench.accuracy.rows, bench.golden
    second = {"runner": "torch"}
    for folder in (old, new):
        (folder / "samples.npz").unlink()
    both = replace(bench.accuracy, rows=[answer, replace(answer, **second)])
    change(old, accuracy=both, latency=[*latency, replace(latency[0], **second)])
    gone = "fp32 by torch, batch 1, e2e, has no time in the new bench"
    assert compare(old, new).failures == []  # no limit, no gate
    assert compare(old, new, 1.05).failures == [gone]
    assert compare(old, new, None, 0.5).failures == ["fp32 by torch has no accuracy in the new bench"]
    assert len(compare(old, new, 1.05, 0.5).failures) == 2
    assert compare(new, old, 1.05, 0.5).failures == []  # what is only in the new bench has nothing to hold
    emulated = replace(latency[0], **second, emulated="in fp32")
    change(new, latency=[*latency, emulated])
    assert compare(old, new, 1.05).failures == [gone]
    change(old, latency=[*latency, emulated])
    assert compare(old, new, 1.05).failures == []
    change(new, golden=[replace(golden, passed=False)])
    assert compare(old, new, 1.05).failures == ["fp32 by onnxruntime failed its golden check in the new bench"]
    assert compare(old, new).failures == []
    assert compare(new, new, None, 0.5).failures == ["fp32 by onnxruntime failed its golden check in the new bench"]


def test_files_that_are_no_complete_bench_are_refused(tmp_path: Path) -> None:
    old, new = write_bench(tmp_path / "old"), write_bench(tmp_path / "new")
    with refuses("nothing", "exist", at="bench.compare._open_side", kind=UsageError):
        compare(old, tmp_path / "nothing")
    damage(new, status="interrupted")
    with refuses("new/bench.json", "interrupted", at="bench.compare._open_side"):
        compare(old, new)
    damage(new, status="complete", schema="dhox.bench/1")
    with refuses("new/bench.json", "'dhox.bench/1'", repr(BENCH_SCHEMA), at="artefacts.record.check_schema"):
        compare(old, new)
    damage(new, schema=BENCH_SCHEMA)
    whole = (new / "bench.json").read_text(encoding="utf-8")
    for found in ("NaN", "1e308", '"fast"', "null"):
        (new / "bench.json").write_text(re.sub(r'"p50": [\d.]+', f'"p50": {found}', whole), encoding="utf-8")
        with refuses("new/bench.json", at="artefacts.record.decode"):
            compare(old, new, max_slowdown=1.05)
    damage(new, latency=[{"model": "fp32"}])
    with refuses("new/bench.json", "latency[0]", "`n`", at="artefacts.record.decode"):
        compare(old, new)
    for limit in (("--max-slowdown", "0.9"), ("--max-accuracy-drop", "-1")):
        with pytest.raises(SystemExit, match="^2$"):
            main(["compare", str(old), str(old), *limit])


def test_the_command_s_exit_codes_json_and_width(tmp_path: Path) -> None:
    old = write_bench(tmp_path / "old")
    new = write_bench(tmp_path / "new", factor=1.2, wrong=list(range(20)), seed=1)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(DHOX), "compare", str(old), *arguments], capture_output=True, text=True, check=False,
            env={"PATH": "/usr/bin:/bin", "COLUMNS": "99"},
        )  # fmt: skip

    limits = ("--max-slowdown", "1.05", "--max-accuracy-drop", "0.5")
    passed = run(str(old), *limits)
    assert passed.returncode == 0, passed.stderr
    failed = run(str(new), *limits)
    assert failed.returncode == 3
    assert all(named(fact, failed.stderr) for fact in ("fp32 by onnxruntime", "1.05", "10.00"))
    assert "too slow" in failed.stdout
    tables = [line for line in failed.stdout.splitlines() if line[:1] in "┃│└┏"]
    assert max(map(len, tables)) < 100
    assert run(str(new)).returncode == 0  # no limit, no gate
    crashed = write_bench(tmp_path / "crashed")
    change(crashed, latency=read_bench(crashed).latency[:1])
    missing = run(str(crashed), *limits)
    assert missing.returncode == 3
    assert named("batch 8, e2e", " ".join(missing.stderr.split()))
    printed = json.loads(run(str(new), *limits, "--json").stdout)
    assert [row["verdict"] for row in printed["latency"]] == ["too slow", "too slow"]
    assert printed["accuracy"][0]["lost"] == 20
    assert run(str(new), "--max-slowdown", "0").returncode == 2
    assert run(str(tmp_path / "missing")).returncode == 2


def test_two_real_benches_compare(line: Path, tmp_path: Path) -> None:
    old = line / "runs/tiny/bench/here"
    new = tmp_path / "copy"
    shutil.copytree(old, new)
    found = compare(old, new, 1.05, 0.5)
    assert found.latency
    assert all(row.ratio == 1 for row in found.latency)
    assert all(row.paired and row.drop == 0 for row in found.accuracy)
    assert found.failures == []


def test_benches_that_do_not_match_are_one_sentence(tmp_path: Path) -> None:
    old, new = write_bench(tmp_path / "old"), write_bench(tmp_path / "new")
    rows, answers = read_bench(new).latency, read_bench(new).accuracy.rows
    renamed = [replace(row, runner="torch") for row in rows]
    change(new, latency=renamed, accuracy=replace(read_bench(new).accuracy, rows=[replace(answers[0], runner="torch")]))
    (new / "samples.npz").unlink()
    with pytest.raises(DhoxError) as refused:
        compare(old, new)
    assert len(str(refused.value)) < 300
    assert "only in the old bench: fp32 by onnxruntime (2 rows)" in refused.value.reason
    change(
        new,
        latency=renamed,
        accuracy=read_bench(old).accuracy,
        device=replace(read_bench(new).device, host="b", cpu="c"),
    )
    found = compare(old, new)
    assert len(found.not_compared) == 4
    assert summary([*found.not_compared, "accuracy of fp32 by torch: only in the new bench"]).startswith(
        "only in the old bench: fp32 by onnxruntime (2 rows); only in the new bench: fp32 by torch (2 rows)"
    )
    many = [f"m{i} by r, batch {batch}, e2e: only in the old bench" for i in range(8) for batch in (1, 2)]
    assert summary(many).endswith("m5 by r (2 rows) and 2 more")
    with console.capture() as capture:
        show(compare_page(found))
    told = [line for line in capture.get().splitlines() if line.startswith(("Not compared", "The benches differ"))]
    assert len(told) == 2
