from __future__ import annotations

from pathlib import Path

import pytest

from dhox.system.machine import available_memory, device_card
from dhox.system.sysroot import VARIABLE


def test_the_card_has_no_empty_field() -> None:
    card = device_card()
    assert all((card.host, card.platform, card.machine, card.cpu, card.cpu_cores))


@pytest.mark.parametrize(
    ("limit", "available"), [("max", 8192), ("9000", 9000 - 5000 + 1500), ("100000", 8192), (None, 8192)]
)
def test_memory_that_is_left_is_the_machines_or_the_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, available: int
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert available_memory() is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  16 kB\nMemAvailable:  8 kB\n")
    if limit is not None:
        group = tmp_path / "sys/fs/cgroup"
        group.mkdir(parents=True)
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text("5000\n")
        (group / "memory.stat").write_text("anon 3500\ninactive_file 1500\nactive_file 0\n")
    assert available_memory() == available
