from __future__ import annotations

from dhox.system.machine import device_card


def test_the_card_has_no_empty_field() -> None:
    card = device_card()
    assert all((card.host, card.platform, card.machine, card.cpu, card.cpu_cores))
