"""Power modes of a Jetson as nvpmodel tells them: the current one, and all of them with what they gate."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from dhox.errors import DhoxError
from dhox.system.commands import ask
from dhox.system.sysroot import system_path

CONFIGURATION = "/etc/nvpmodel.conf"


@dataclass(frozen=True)
class PowerMode:
    """A power mode. Ids and names differ between boards and JetPacks, so both are kept.

    `gating`: its masks of power-gated GPU units by name; they take effect at boot only, once the GPU was in use.
    """

    id: int
    name: str
    gating: dict[str, str] = field(default_factory=dict)


def parse_query(text: str) -> PowerMode | None:
    """The mode of `nvpmodel -q`: a line "NV Power Mode: NAME", and its id alone on a later line."""
    found = re.search(r"NV Power Mode:[ \t]*(\S+)[^\n]*\n(?:[^\n]*\n)*?[ \t]*(\d+)[ \t]*(?:\n|$)", text)
    return PowerMode(int(found[2]), found[1]) if found else None


def parse_modes(text: str) -> list[PowerMode]:
    """The modes of `nvpmodel -p --verbose` or of /etc/nvpmodel.conf, in the order of the file."""
    modes: list[PowerMode] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            continue
        begins = re.search(r"POWER_MODEL:? ID=(\d+) NAME=([^\s>]+)", line)
        gates = re.search(r"(?:^|\s)(\w+_PG_MASK)\s+(\w+)\s*$", line)
        if begins:
            modes.append(PowerMode(int(begins[1]), begins[2]))
        elif gates and modes:
            modes[-1].gating[gates[1]] = gates[2]
    return modes


def current_mode() -> tuple[PowerMode | None, str]:
    """The power mode that is set, or None and the reason."""
    answer = ask("nvpmodel", "-q")
    mode = parse_query(answer.text)
    if mode is not None:
        return mode, ""
    said = answer.text.strip().splitlines() or ["it says nothing"]
    return None, f"nvpmodel -q: {said[-1]}"


def power_modes() -> list[PowerMode]:
    """Every power mode of this board. Raises DhoxError where neither nvpmodel nor its configuration names one."""
    modes = parse_modes(ask("nvpmodel", "-p", "--verbose").text)
    if not modes:
        try:
            modes = parse_modes(system_path(CONFIGURATION).read_text(encoding="utf-8", errors="replace"))
        except OSError:
            modes = []
    if not modes:
        raise DhoxError(
            f"Neither `nvpmodel -p --verbose` nor {CONFIGURATION} names a power mode here.",
            f"Run this on a Jetson (in a container, mount {CONFIGURATION} and nvpmodel), or leave out --power-modes.",
        )
    return modes
