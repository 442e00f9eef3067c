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
from hypothesis import given
from hypothesis import strategies as st

from dhox.artefacts.files import write_json, write_npz
from dhox.bench.compare import compare, difference_interval, verdict
from dhox.bench.latency_statistics import latency_row
from dhox.errors import DhoxError, UsageError
from dhox.evidence.statistics import accuracy_row

DHOX = Path(sysconfig.get_path("scripts")) / "dhox"
LABELS = ["bag", "sandal"] * 100


def write_bench(
    folder: Path, *, factor: float = 1.0, noise: float = 0.01, wrong: Sequence[int] = (), seed: int = 0, **changes: Any
) -> Path:
    """A bench of one model on one runner at batch 1 and 8, by dhox's own statistics; `wrong`: images misjudged."""
    rng = np.random.default_rng(seed)
    rows, arrays = [], {}
    for batch in (1, 8):
        level = np.exp(rng.normal(0, noise, (40, 1)) + rng.normal(0, 0.01, (40, 20)))
        rounds = list((1e6 * factor * batch * level).astype(np.int64))
        key = f"fp32_onnxruntime_{batch}_e2e"
        arrays |= {key: np.concatenate(rounds), f"{key}_rounds": np.full(40, 20)}
        names = {"subject": "fp32", "runner": "onnxruntime", "batch": batch, "scope": "e2e", "emulated": None}
        rows.append({**names, "samples": key, **latency_row(rounds, batch, np.arange(40.0))})
    right = np.array([i not in wrong for i in range(len(LABELS))])
    answer = {"subject": "fp32", "runner": "onnxruntime", "precision": "fp32", **accuracy_row(right)}
    content = {
        "schema": "dhox.bench/2", "status": "complete", "finished_at": "2026-01-01T00:00:00+00:00",
        "device": {"host": "here", "machine": "x86_64", "cpu": "one", "cpu_cores": 2, "gpu": None, "jetson": None},
        "settings": {"images": "2 test images"}, "latency": rows, "conditions": None,
        "runners": [{"subject": "fp32", "runner": "onnxruntime", "batch": 1, "provider": "CPUExecutionProvider"}],
        "accuracy": {"data": "d", "rows": [answer]},
        "golden": [{"subject": "fp32", "runner": "onnxruntime", "passed": True}],
    }  # fmt: skip
    folder.mkdir()
    write_json(folder / "bench.json", content | changes)
    write_npz(folder / "samples.npz", **arrays)
    lines = ["subject,runner,path,label,predicted,probability"]
    for i, label in enumerate(LABELS):
        lines.append(f"fp32,onnxruntime,{i}.png,{label},{'x' if i in wrong else label},0.9")
    (folder / "predictions.csv").write_text("\n".join(lines) + "\n")
    return folder


def change(folder: Path, **changes: Any) -> None:
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
    assert "times as slow" in failed.failures[0]
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
    value, (low, high) = difference_interval([first[1], second[1]], [[first[0], first[2]], [second[0], second[2]]])
    assert low <= value <= high
    back, (back_low, back_high) = difference_interval(
        [second[1], first[1]], [[second[0], second[2]], [first[0], first[2]]]
    )
    assert (back, back_low, back_high) == pytest.approx((-value, -high, -low))


def test_newcombe_s_published_example() -> None:
    """56/70 and 48/80: 0.2 with 0.0524 to 0.3339 (Newcombe 1998, table II, row a, method 10)."""
    one, other = (accuracy_row(np.arange(n) < k) for k, n in ((56, 70), (48, 80)))
    value, interval = difference_interval(
        [other["accuracy"], one["accuracy"]],  # type: ignore[list-item]
        [other["interval"], one["interval"]],  # type: ignore[list-item]
    )
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
    assert compare(old, new, None, 5.0).failures == []
    (failure,) = compare(old, new, None, 4.99).failures
    assert "lost 5.00 points (beyond chance), the limit is 4.99" in failure
    little = write_bench(tmp_path / "little", wrong=[0, 1, 2, 3, 4])
    (failure,) = compare(old, little, None, 0.5).failures
    assert "1.00 points (chance could explain it)" in failure


def test_other_images_are_compared_unpaired(tmp_path: Path) -> None:
    old, new = write_bench(tmp_path / "old"), write_bench(tmp_path / "new", wrong=[0])
    text = (new / "predictions.csv").read_text()
    (new / "predictions.csv").write_text(text.replace(",7.png,", ",other.png,"))
    (row,) = compare(old, new).accuracy
    assert (row.paired, row.gained, row.mcnemar_p) == (False, None, None)
    assert row.chance
    assert row.drop == pytest.approx(0.5)
    assert row.interval[0] < 0.5 < row.interval[1]
    (new / "predictions.csv").unlink()
    assert not compare(old, new).accuracy[0].paired
    (new / "predictions.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DhoxError, match="predictions.csv is damaged .*Delete it"):
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
    with pytest.raises(DhoxError, match="no samples fp32_onnxruntime_1_e2e.*restore it, or delete it"):
        compare(old, new)
    (new / "samples.npz").write_bytes(b"no")
    with pytest.raises(DhoxError, match=r"new/samples.npz is damaged. Copy it again .* or delete it"):
        compare(old, new)
    with pytest.raises(DhoxError, match=r"old/samples.npz is no bench. Give a bench directory, or its bench.json"):
        compare(new, old / "samples.npz")


def test_what_else_differs_is_said(tmp_path: Path) -> None:
    old, new = write_bench(tmp_path / "old"), write_bench(tmp_path / "new")
    board = {"model": "Orin", "l4t": "36.4.3", "power_mode": {"id": 0, "name": "15W"}, "jetson_clocks": False}
    other = board | {"power_mode": {"id": 2, "name": "MAXN_SUPER"}}
    card = json.loads((old / "bench.json").read_text())["device"]
    change(old, device=card | {"jetson": board}, conditions={"gpu_clock_mhz": {"median": 600.0}, "locked": True})
    conditions = {"gpu_clock_mhz": {"median": 1000.0}, "locked": False, "throttled": ["SwPowerCap"]}
    change(
        new, device=card | {"jetson": other, "host": "board-2"}, conditions=conditions,
        golden=[{"subject": "fp32", "runner": "onnxruntime", "passed": False}],
        runners=[{"subject": "fp32", "runner": "onnxruntime", "batch": 1, "provider": "CUDAExecutionProvider"}],
    )  # fmt: skip
    assert compare(old, new).warnings == [
        "host: here then board-2",
        "power mode: 15W then MAXN_SUPER",
        "median GPU clock: 600 then 1,000 MHz",
        "clocks locked: yes then no",
        "the new bench was throttled: SwPowerCap",
        "fp32 by onnxruntime failed its golden check in the new bench",
        "provider of fp32 by onnxruntime: CPUExecutionProvider then CUDAExecutionProvider",
    ]


def test_flags_are_counted_over_the_rows_that_count(tmp_path: Path) -> None:
    old, new = write_bench(tmp_path / "old"), write_bench(tmp_path / "new")
    rows = [row | {"flags": ["unstable"]} for row in json.loads((new / "bench.json").read_text())["latency"]]
    change(new, latency=[*rows, *[row | {"subject": "int8", "emulated": "in fp32"} for row in rows]])
    assert compare(old, new).warnings == ["the new bench flags 2 of 2 latencies: unstable"]


def test_rows_without_partner_are_listed_and_gates_need_rows(tmp_path: Path) -> None:
    old, new = write_bench(tmp_path / "old"), write_bench(tmp_path / "new")
    rows = json.loads((new / "bench.json").read_text())["latency"]
    change(new, latency=[rows[0]])
    found = compare(old, new)
    assert found.not_compared == ["fp32 by onnxruntime, batch 8, e2e: only in the old bench"]
    change(new, latency=[row | {"emulated": "in fp32"} for row in rows])
    assert compare(old, new).not_compared == ["times of fp32 by onnxruntime: its precision is emulated here"]
    with pytest.raises(DhoxError, match="--max-slowdown: .*no latency in common"):
        compare(old, new, max_slowdown=1.05)
    change(new, latency=[row | {"subject": "other"} for row in rows], accuracy={"data": "d", "rows": []})
    with pytest.raises(DhoxError, match="in common: fp32 by onnxruntime, batch 1"):
        compare(old, new)
    change(new, latency=rows)
    with pytest.raises(DhoxError, match="--max-accuracy-drop: .*Give dhox bench --data"):
        compare(old, new, max_accuracy_drop=0.5)


def test_a_gated_row_that_is_missing_or_wrong_fails(tmp_path: Path) -> None:
    old, new = write_bench(tmp_path / "old"), write_bench(tmp_path / "new")
    content = json.loads((old / "bench.json").read_text())
    latency, (answer,), (golden,) = content["latency"], content["accuracy"]["rows"], content["golden"]
    second = {"subject": "int8"}
    change(old, accuracy={"data": "d", "rows": [answer, answer | second]}, latency=[*latency, latency[0] | second])
    gone = "int8 by onnxruntime, batch 1, e2e, has no time in the new bench"
    assert compare(old, new).failures == []  # no limit, no gate
    assert compare(old, new, 1.05).failures == [gone]
    assert compare(old, new, None, 0.5).failures == ["int8 by onnxruntime has no accuracy in the new bench"]
    assert len(compare(old, new, 1.05, 0.5).failures) == 2
    assert compare(new, old, 1.05, 0.5).failures == []  # what is only in the new bench has nothing to hold
    emulated = latency[0] | second | {"emulated": "in fp32"}
    change(new, latency=[*latency, emulated])
    assert compare(old, new, 1.05).failures == [gone]
    change(old, latency=[*latency, emulated])
    assert compare(old, new, 1.05).failures == []
    change(new, golden=[golden | {"passed": False}])
    assert compare(old, new, 1.05).failures == ["fp32 by onnxruntime failed its golden check in the new bench"]
    assert compare(old, new).failures == []
    assert compare(new, new, None, 0.5).failures == ["fp32 by onnxruntime failed its golden check in the new bench"]


def test_files_that_are_no_complete_bench_are_refused(tmp_path: Path) -> None:
    old, new = write_bench(tmp_path / "old"), write_bench(tmp_path / "new")
    with pytest.raises(DhoxError, match="Could not read"):
        compare(old, tmp_path / "nothing")
    change(new, status="interrupted")
    with pytest.raises(DhoxError, match="is interrupted, not complete. Run that bench to its end"):
        compare(old, new)
    change(new, status="complete", schema="dhox.bench/1")
    with pytest.raises(DhoxError, match="has the schema 'dhox.bench/1'"):
        compare(old, new)
    text = (new / "bench.json").read_text(encoding="utf-8")
    (new / "bench.json").write_text(re.sub(r'"p50": [\d.]+', '"p50": NaN', text), encoding="utf-8")
    with pytest.raises(DhoxError, match="NaN is no number of JSON"):
        compare(old, new, max_slowdown=1.05)
    (new / "bench.json").write_text(re.sub(r'"p50": [\d.]+', '"p50": 1e308', text), encoding="utf-8")
    change(new, schema="dhox.bench/2")
    with pytest.raises(DhoxError, match="is not a whole bench.json .*Measure again"):
        compare(old, new, max_slowdown=1.05)
    change(new, schema="dhox.bench/2", latency=[{"subject": "fp32"}])
    with pytest.raises(DhoxError, match="is not a whole bench.json .*Measure again"):
        compare(old, new)
    with pytest.raises(UsageError, match="--max-slowdown 0.9 is a ratio"):
        compare(old, old, max_slowdown=0.9)
    with pytest.raises(UsageError, match="--max-accuracy-drop -1 is in points"):
        compare(old, old, max_accuracy_drop=-1)


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
    assert "times as slow" in failed.stderr
    assert "lost 10.00 points (beyond chance)" in failed.stderr
    assert "too slow" in failed.stdout
    tables = [line for line in failed.stdout.splitlines() if line[:1] in "┃│└┏"]
    assert max(map(len, tables)) < 100
    assert run(str(new)).returncode == 0  # no limit, no gate
    crashed = write_bench(tmp_path / "crashed")
    change(crashed, latency=json.loads((crashed / "bench.json").read_text())["latency"][:1])
    missing = run(str(crashed), *limits)
    assert missing.returncode == 3
    assert "batch 8, e2e, has no time in the new bench" in " ".join(missing.stderr.split())
    printed = json.loads(run(str(new), *limits, "--json").stdout)
    assert [row["verdict"] for row in printed["latency"]] == ["too slow", "too slow"]
    assert printed["accuracy"][0]["lost"] == 20
    assert run(str(new), "--max-slowdown", "0").returncode == 2
    assert run(str(tmp_path / "missing")).returncode == 1


def test_two_real_benches_compare(line: Path, tmp_path: Path) -> None:
    old = line / "runs/tiny/bench/here"
    new = tmp_path / "copy"
    shutil.copytree(old, new)
    found = compare(old, new, 1.05, 0.5)
    assert found.latency
    assert all(row.ratio == 1 for row in found.latency)
    assert all(row.paired and row.drop == 0 for row in found.accuracy)
    assert found.failures == []
