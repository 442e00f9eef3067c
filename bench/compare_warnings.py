"""What differs between two benches beside the models, and what makes either doubtful, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from dhox.artefacts.bench import Bench
from dhox.artefacts.machine import Clock, Conditions, DeviceCard, GpuCard, JetsonCard

CLOCKS_DIFFER = 0.03  # relative difference of median clocks that is worth a warning
CLOCKS = {"GPU": "gpu_clock_mhz", "MEMORY": "memory_clock_mhz", "CPU": "cpu_clock_mhz"}
FACTS = ("provider", "graph", "precision_proven", "nodes_off_device")


def _of_gpu(fact: Callable[[GpuCard], object]) -> Callable[[DeviceCard], object]:
    """A fact of the card's GPU; None without one."""
    return lambda card: card.gpu and fact(card.gpu)


def _of_board(fact: Callable[[JetsonCard], object]) -> Callable[[DeviceCard], object]:
    """A fact of the card's board; None elsewhere."""
    return lambda card: card.jetson and fact(card.jetson)


CARD: dict[str, Callable[[DeviceCard], object]] = {  # what makes two machines different
    "host": lambda card: card.host,
    "architecture": lambda card: card.machine,
    "processor": lambda card: card.cpu,
    "cores": lambda card: card.cpu_cores,
    "GPU": _of_gpu(lambda gpu: gpu.name),
    "driver": _of_gpu(lambda gpu: gpu.driver),
    "board": _of_board(lambda board: board.model),
    "L4T": _of_board(lambda board: board.l4t),
    "power mode": _of_board(lambda board: board.power_mode and board.power_mode.name),
    "jetson_clocks": _of_board(lambda board: board.jetson_clocks),
    "highest GPU clock, MHz": _of_board(lambda board: (board.gpu_clock_mhz or Clock()).max),
    "memory clock, MHz": _of_board(lambda board: (board.memory_clock_mhz or Clock()).current),
}


def differences(old: Bench, new: Bench) -> list[str]:
    """Machine, conditions, flags, golden checks, images, and what the runners were."""
    warnings = [changed(name, fact(old.device), fact(new.device)) for name, fact in CARD.items()]
    warnings += _conditions_changed(old.conditions, new.conditions)
    warnings += [*_doubts(old, "old"), *_doubts(new, "new")]
    warnings.append(changed("images timed", old.settings.images, new.settings.images))
    warnings.append(changed("accuracy's data", old.accuracy.data, new.accuracy.data))
    return [warning for warning in warnings if warning] + _runners_changed(old, new)


def changed(name: str, before: object, after: object) -> str:
    """A sentence; empty where nothing changed."""
    return f"{name}: {before} then {after}" if before != after else ""


def _conditions_changed(old: Conditions | None, new: Conditions | None) -> list[str]:
    """Clocks that differ, and whether they were locked."""
    if old is None or new is None:
        return []
    found = []
    for name, field in CLOCKS.items():
        before, after = getattr(old, field), getattr(new, field)
        if before and after and abs(after.median / before.median - 1) > CLOCKS_DIFFER:
            found.append(f"median {name} clock: {before.median:,.0f} then {after.median:,.0f} MHz")
    return [*found, changed("clocks locked", yes(old.locked), yes(new.locked))]


def yes(value: bool | None) -> str:
    """A flag as text."""
    return "not known" if value is None else "yes" if value else "no"


def _doubts(bench: Bench, which: str) -> list[str]:
    """What makes one bench doubtful: throttling, flags, and failed golden checks."""
    throttled = bench.conditions.throttled if bench.conditions else []
    found = [f"the {which} bench was throttled: {', '.join(throttled)}"] if throttled else []
    real = bench.measured_latency
    for flag, count in Counter(flag for row in real for flag in row.flags).items():
        found.append(f"the {which} bench flags {count} of {len(real)} latencies: {flag}")
    images = bench.accuracy.images
    found += [f"{which} bench: {images.text}"] if images and images.text else []
    return found + [
        f"{row.model} by {row.runner} failed its golden check in the {which} bench"
        for row in bench.golden
        if not row.passed
    ]


def _runners_changed(old: Bench, new: Bench) -> list[str]:
    """What a runner was in one bench and not in the other."""
    before, after = ({(row.model, row.runner, row.batch): row.facts for row in one.runners} for one in (old, new))
    return sorted(
        {
            changed(f"{name.replace('_', ' ')} of {key[0]} by {key[1]}", getattr(before[key], name), value)
            for key in before.keys() & after.keys()
            for name in FACTS
            if (value := getattr(after[key], name)) != getattr(before[key], name)
        }
    )
