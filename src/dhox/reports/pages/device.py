"""The machine of a bench in sentences: its card, and its clocks, temperatures and memory while it measured."""

from __future__ import annotations

from dhox.artefacts.bench import Bench
from dhox.artefacts.bench_latency import LatencyRow
from dhox.artefacts.machine import Clock, Conditions, DeviceCard, GpuCard, JetsonCard
from dhox.reports.text import size_text


def device_sentence(card: DeviceCard) -> str:
    """Which machine, in one line."""
    if card.jetson:
        return ", ".join([f"{card.host}: {card.jetson.model}", *_board_facts(card.jetson)])
    return f"{card.host}: {card.cpu}, {card.cpu_cores} cores" + (f", {card.gpu.name}" if card.gpu else "")


def chip(bench: Bench, row: LatencyRow) -> str:
    """What a row was computed on: the CPU where its runner is of the CPU, else the board or the GPU."""
    card = bench.device
    asked = (row.model, row.runner)
    on_cpu = any((one.model, one.runner) == asked and one.facts.device == "cpu" for one in bench.runners)
    if card.jetson and not on_cpu:
        return card.jetson.model
    return card.gpu.name if card.gpu and not on_cpu else card.cpu


def _board_facts(board: JetsonCard) -> list[str]:
    """What a Jetson is set to: JetPack, power mode, clocks."""
    mode = board.power_mode
    return [
        *([f"JetPack {board.jetpack}"] if board.jetpack else []),
        *([f"L4T {board.l4t}"] if board.l4t else []),
        f"power mode {mode.name} (id {mode.id})" if mode else "power mode unknown",
        f"jetson_clocks {board.jetson_clocks}",
    ]


def card_lines(bench: Bench) -> list[str]:
    """The device card, and what was seen while measuring."""
    card = bench.device
    memory = f", {size_text(card.memory_bytes)} memory" if card.memory_bytes else ""
    lines = [f"Machine {card.host}: {card.cpu}, {card.cpu_cores} cores for this process{memory}; {card.platform}."]
    if bench.remote:
        lines.append(f"Measured over ssh on {bench.remote.host}, by {bench.remote.python} there.")
    if card.gpu:
        lines.append(_gpu_sentence(card.gpu))
    if card.jetson:
        lines += _board_lines(card.jetson)
    lines.append(f"{_conditions_sentence(bench.conditions)}.")
    if used := bench.memory:
        peaks = [(used.peak_bytes, "of the machine's memory"), (used.process_peak_bytes, "of this process")]
        found = " and ".join(f"{size_text(count)} {what}" for count, what in peaks if count is not None)
        lines.append(f"Peak memory of the bench: {found or 'not readable'}. {used.method}")
    return lines


def _gpu_sentence(gpu: GpuCard) -> str:
    parts = [
        gpu.name + (", a part of it (MIG)" if gpu.mig else ""),
        size_text(gpu.memory_bytes) if gpu.memory_bytes else "",
        f"compute capability {gpu.compute_capability}" if gpu.compute_capability else "",
        f"driver {gpu.driver}" if gpu.driver else "",
        f"power limit {gpu.power_limit_w:.0f} W" if gpu.power_limit_w else "",
        f"highest clock {gpu.highest_clock_mhz:,.0f} MHz" if gpu.highest_clock_mhz else "",
    ]
    return f"GPU: {', '.join(part for part in parts if part)}."


def _board_lines(board: JetsonCard) -> list[str]:
    module = f" ({board.module})" if board.module else ""
    lines = [f"Board: {board.model}{module}, {', '.join(_board_facts(board))}."]
    lines += [f"Power mode: {board.power_mode_note}."] if board.power_mode_note else []
    clocks = (("GPU", board.gpu_clock_mhz, None), ("memory", board.memory_clock_mhz, board.memory_clock_note))
    for what, clock, note in clocks:
        if clock:
            lines.append(f"Clock of the {what} before the bench: {_clock_text(clock)}.")
        elif note:
            lines.append(f"Clock of the {what}: not read, {note}.")
    library = board.tensorrt
    found = f"not importable: {library.why_not}" if library.why_not else library.version or "version unknown"
    lines.append(f"TensorRT of the board: {found}.")
    if board.temperature_c:
        degrees = ", ".join(f"{name} {value:.0f} °C" for name, value in board.temperature_c.items())
        lines.append(f"Temperatures before the bench: {degrees}.")
    return lines


def _clock_text(clock: Clock) -> str:
    now = "unknown" if clock.current is None else f"{clock.current:,.0f} MHz"
    if clock.min is not None and clock.max is not None:
        now += f" (limits {clock.min:,.0f} to {clock.max:,.0f})"
    return now + (f", governor {clock.governor}" if clock.governor else "")


def _conditions_sentence(seen: Conditions | None) -> str:
    if seen is None or not seen.sampled:
        reason = seen.note if seen and seen.note else "nothing readable"
        return f"Clocks and temperatures during the measurement: not sampled ({reason})"
    clocks = (("GPU", seen.gpu_clock_mhz), ("memory", seen.memory_clock_mhz), ("CPU", seen.cpu_clock_mhz))
    parts = [f"{what} {clock.median:,.0f} MHz ({clock.min:,.0f}-{clock.max:,.0f})" for what, clock in clocks if clock]
    warmest = sorted(seen.temperature_c.items(), key=lambda sensor: -sensor[1].max)[:3]
    parts += [f"{name} {warming.first:.0f} to {warming.max:.0f} °C" for name, warming in warmest]
    parts.append({True: "clocks locked", False: "clocks not locked", None: "clocks may move"}[seen.locked])
    parts.append("throttled: " + ", ".join(seen.throttled) if seen.throttled else "no throttling seen")
    note = f". {seen.note}" if seen.note else ""
    return f"Sampled {seen.sampled} times while measuring: {', '.join(parts)}{note}"
