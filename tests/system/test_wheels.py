"""Which wheels and requirements fit another machine."""

from __future__ import annotations

import dataclasses

from dhox.system.wheels import Target, canonical, needed_by

ORIN = Target((3, 10), "aarch64", (2, 35))


def test_tags_go_from_the_boards_glibc_down() -> None:
    tags = ORIN.tags()
    assert tags[0] == "manylinux_2_35_aarch64"
    assert {"manylinux_2_28_aarch64", "manylinux2014_aarch64", "manylinux_2_17_aarch64"} <= set(tags)
    assert not any("2_36" in tag or "x86" in tag for tag in tags)
    assert "manylinux1_x86_64" in dataclasses.replace(ORIN, machine="x86_64").tags()


def test_extras_bring_only_what_is_theirs() -> None:
    requires = [
        "base",
        "more; extra == 'cpu'",
        "tool; extra == 'dev'",
        "old; python_version < '3.11' and extra == 'cpu'",
    ]
    assert needed_by(requires, ORIN, "") == ["base"]
    assert needed_by(requires, ORIN, "cpu") == ["more", "old"]
    assert needed_by(requires, dataclasses.replace(ORIN, python=(3, 12)), "cpu") == ["more"]


def test_names_compare_as_on_the_index() -> None:
    assert canonical("Open_CLIP.torch") == "open-clip-torch"
