"""The card of a Jetson, against recordings of real boards (tests/jetson/SOURCES.md names their sources)."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from board import RECORDINGS, board_with_modes, recorded_board, write_command, write_file
from refusals import named, refuses

from dhox.artefacts.machine import Clock, JetsonCard, SetPowerMode
from dhox.system.commands import ask
from dhox.system.jetpack import JETPACKS, jetpack_of, parse_core_package, parse_release
from dhox.system.jetson import is_jetson, jetson_card, module_name, why_no_tensorrt
from dhox.system.jetson_state import clocks_held, gpu_clock, parse_show, shared_memory, temperatures
from dhox.system.nvpmodel import PowerMode, current_mode, parse_modes, parse_query, power_modes
from dhox.system.sysroot import VARIABLE, sysroot, system_path


def recording(name: str) -> str:
    return (RECORDINGS / name).read_text(encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path


def test_every_recording_names_its_source_and_hand_made_ones_say_so() -> None:
    table = dict(re.findall(r"^\| (\S+/\S+) \|.*\| ([^|]+) \|$", recording("SOURCES.md"), re.MULTILINE))
    files = {path.relative_to(RECORDINGS).as_posix() for path in RECORDINGS.glob("*/*")}
    assert set(table) == files
    for name, source in table.items():
        by_hand = "synthetic_" in name
        assert (source == "by hand") == by_hand, name
        assert by_hand or re.match(r"[\w.-]+/[\w.-]+(#\d+|, [\w./-]+)$", source), (name, source)


def test_paths_are_those_of_the_system_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert (sysroot(), system_path("/proc/meminfo")) == (Path("/"), Path("/proc/meminfo"))
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert system_path("/proc/meminfo") == tmp_path / "proc/meminfo"


@pytest.mark.parametrize(
    ("folder", "l4t", "jetpack"),
    [("orin_nano_r35.3.1", "35.3.1", "5.1.1"), ("agx_thor_r38.2.0", "38.2.0", "7.0"), ("agx_orin_r39.2.0", "39.2.0", "7.2")],
)  # fmt: skip
def test_releases_and_their_jetpack(folder: str, l4t: str, jetpack: str) -> None:
    found = parse_release(recording(f"{folder}/nv_tegra_release"))
    assert found == l4t
    known = jetpack_of(found)
    assert known is not None
    assert known.version == jetpack


def test_an_unknown_release_keeps_its_number_and_gets_no_jetpack(root: Path) -> None:
    recorded_board(root, "agx_thor_r38.2.0")
    write_file(root, "/etc/nv_tegra_release", "# R36 (release), REVISION: 9.1, GCID: 1, BOARD: generic\n")
    card = jetson_card()
    assert card is not None
    assert (card.l4t, card.jetpack) == ("36.9.1", None)
    write_file(root, "/etc/nv_tegra_release", "# a vendor's own words\n")
    card = jetson_card()
    assert card is not None
    assert (card.l4t, card.jetpack) == ("# a vendor's own words", None)


def test_no_release_belongs_to_two_jetpacks() -> None:
    releases = [release for jetpack in JETPACKS for release in jetpack.l4t]
    assert len(set(releases)) == len(releases)
    assert jetpack_of(None) is None
    found = [jetpack_of(f"35.6.{last}") for last in range(4)]
    assert [one and one.version for one in found] == ["5.1.4", "5.1.5", "5.1.5", None]


def test_the_core_package_tells_the_release_where_the_file_is_missing(root: Path) -> None:
    recorded_board(root, "agx_orin_64gb")
    write_command(root, "dpkg-query", "#!/bin/sh\n[ $4 = nvidia-l4t-core ] && printf 36.4.7-20250918154033\n")
    card = jetson_card()
    assert card is not None
    assert (card.l4t, card.jetpack, card.module) == ("36.4.7", "6.2.1", "Jetson AGX Orin 64 GB")
    assert parse_core_package("no version") is None


@pytest.mark.parametrize(
    ("folder", "soc", "capability", "module"),
    [
        ("orin_nano_r35.3.1", "tegra234", "8.7", "Jetson Orin Nano 8 GB"),
        ("agx_orin_64gb", "tegra234", "8.7", "Jetson AGX Orin 64 GB"),
        ("agx_thor_r38.2.0", "tegra264", "11.0", "Jetson T5000 (AGX Thor developer kit)"),
    ],
)
def test_boards_by_their_device_tree(root: Path, folder: str, soc: str, capability: str, module: str) -> None:
    card = jetson_card_of(recorded_board(root, folder))
    assert (card.soc, card.compute_capability, card.module) == (soc, capability, module)


def jetson_card_of(root: Path) -> JetsonCard:
    card = jetson_card()
    assert card is not None
    assert msgspec.json.decode(msgspec.json.encode(card), type=JetsonCard) == card
    return card


def test_unknown_modules_and_super_variants() -> None:
    assert (
        module_name(["nvidia,p3768-0000+p3767-0005-super", "nvidia,tegra234"])
        == "Jetson Orin Nano 8 GB (developer kit)"
    )
    assert module_name(["nvidia,p9999-0000+p9998-0001", "nvidia,tegra999"]) is None


def test_other_boards_and_machines_are_none(root: Path) -> None:
    assert jetson_card() is None
    write_file(root, "/proc/device-tree/compatible", b"raspberrypi,5-model-b\0brcm,bcm2712\0")
    assert not is_jetson()
    assert jetson_card() is None


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("orin_nano_jp6/nvpmodel_q", PowerMode(0, "15W")),
        ("agx_thor_r38.2.0/nvpmodel_q", PowerMode(0, "MAXN")),
        ("agx_orin_r36.3/nvpmodel_q", PowerMode(0, "MAXN")),
        ("nvpmodel/emulator_q", PowerMode(0, "MAXTEST")),
        ("nvpmodel/synthetic_xavier_q", PowerMode(5, "MODE_30W_4CORE")),
        ("nvpmodel/synthetic_reboot", None),
        ("nvpmodel/orin_nano_4gb_refused", None),
    ],
)
def test_the_power_mode_that_is_set(name: str, mode: PowerMode | None) -> None:
    assert parse_query(recording(name)) == mode


def test_the_list_of_power_modes() -> None:
    assert [(mode.id, mode.name) for mode in parse_modes(recording("nvpmodel/jetson_nano_p"))] == [
        (0, "MAXN"),
        (1, "5W"),
    ]
    xavier = parse_modes(recording("nvpmodel/agx_xavier_p"))
    assert [mode.gating["TPC_PG_MASK"] for mode in xavier] == ["0", "5", "0", "0"]
    orin = parse_modes(recording("nvpmodel/agx_orin_p"))
    assert [(mode.name, mode.gating["TPC_PG_MASK"]) for mode in orin] == [
        ("MAXN", "0"), ("MODE_15W", "248"), ("MODE_30W", "240"), ("MODE_50W", "0"),
    ]  # fmt: skip
    assert parse_modes(recording("nvpmodel/jetson_nano_conf")) == [PowerMode(2, "10W")]
    assert parse_modes("#\n# < POWER_MODEL ID=7 NAME=COMMENT >\n") == []


def test_power_modes_from_the_configuration_where_nvpmodel_lists_none(root: Path) -> None:
    with refuses("nvpmodel", at="system.nvpmodel.power_modes", fix="--power-modes"):
        power_modes()
    write_file(root, "/etc/nvpmodel.conf", recording("nvpmodel/jetson_nano_conf"))
    assert power_modes() == [PowerMode(2, "10W")]


def test_why_the_power_mode_is_unknown(root: Path) -> None:
    recorded_board(root, "agx_orin_64gb")
    assert current_mode() == (None, "nvpmodel -q: nvpmodel is not on this machine")
    write_command(root, "nvpmodel", f"#!/bin/sh\ncat '{RECORDINGS / 'nvpmodel/orin_nano_4gb_refused'}'\nexit 255\n")
    card = jetson_card_of(root)
    assert card.power_mode is None
    assert "optMask is 1, no request for power mode" in card.power_mode_note


def test_a_command_that_hangs_is_given_up(root: Path) -> None:
    write_command(root, "nvpmodel", "#!/bin/sh\nexec sleep 30\n")
    answer = ask("nvpmodel", "-q", seconds=0.05)
    assert answer.code is None  # the shell's own end would be 0
    assert named("nvpmodel -q", answer.text)


def test_clocks_as_root_sees_them(root: Path) -> None:
    card = jetson_card_of(recorded_board(recorded_board(root, "orin_nano_r35.3.1"), "orin_nano_jp6"))
    assert card.power_mode == SetPowerMode(0, "15W")
    assert card.gpu_clock_mhz == Clock(min=306.0, max=624.75, current=306.0)
    assert card.memory_clock_mhz == Clock(min=204.0, max=2133.0, current=665.6)
    assert card.jetson_clocks == "off"


def test_cores_that_are_off_do_not_count() -> None:
    show = parse_show(recording("jetson_clocks/tx2"))
    assert len(show.cores) == 4
    assert show.override is False
    assert clocks_held(show.gpu, show) == "off"


def test_held_clocks_in_the_newer_format() -> None:
    show = parse_show(recording("jetson_clocks/synthetic_jp7_held"))
    assert show.override is None
    assert clocks_held(show.gpu, show) == "on"
    cores = (msgspec.structs.replace(show.cores[0], min=1.0), *show.cores[1:])
    assert clocks_held(show.gpu, replace(show, cores=cores)) == "off"
    assert clocks_held(None, show) == "unknown"
    assert (
        clocks_held(show.gpu, parse_show("Error: Run this script(/usr/bin/jetson_clocks) as a root user")) == "unknown"
    )


@pytest.mark.parametrize("node", ["57000000.gpu", "17000000.gv11b", "17000000.ga10b", "17000000.gpu", "gpu-gpc-0"])
def test_the_gpu_clock_of_every_generation(root: Path, node: str) -> None:
    folder = f"/sys/class/devfreq/{node}"
    for name, value in (("cur_freq", 306000000), ("min_freq", 306000000), ("max_freq", 1300500000), ("governor", "nvhost_podgov")):  # fmt: skip
        write_file(root, f"{folder}/{name}", f"{value}\n")
    for other in ("15480000.nvdec", "gpu-nvd-0", "13e40000.host1x"):
        write_file(root, f"/sys/class/devfreq/{other}/cur_freq", "1\n")
    assert gpu_clock() == Clock(current=306.0, min=306.0, max=1300.5, governor="nvhost_podgov")
    cores = "/sys/devices/system/cpu/cpu0/cpufreq/scaling"
    write_file(root, f"{cores}_min_freq", "729600\n")
    write_file(root, f"{cores}_max_freq", "729600\n")
    assert clocks_held(gpu_clock(), parse_show("")) == "off"
    write_file(root, f"{folder}/min_freq", "1300500000\n")
    assert clocks_held(gpu_clock(), parse_show("")) == "on"


def test_zones_without_a_temperature_are_left_out(root: Path) -> None:
    for number, (name, value) in enumerate(
        [("cpu-thermal", "49468\n"), ("cv0-thermal", ""), ("gpu-thermal", "-5000\n")]
    ):
        write_file(root, f"/sys/class/thermal/thermal_zone{number}/type", f"{name}\n")
        write_file(root, f"/sys/class/thermal/thermal_zone{number}/temp", value)
    assert temperatures() == {"cpu-thermal": 49.468, "gpu-thermal": -5.0}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([], None, "3.10", True), "sudo apt install python3-libnvinfer"),
        ((["3.10"], "10.3.0.30", "3.12", True), "Python 3.10, and another minor version .here 3.12. cannot import it.*python3.10 -m venv"),
        ((["3.10"], "10.3.0.30", "3.10", False), "does not see system packages.*--system-site-packages"),
        (([], "10.3.0.30", "3.10", True), "apt install --reinstall python3-libnvinfer"),
    ],
)  # fmt: skip
def test_why_tensorrt_is_not_there(arguments: tuple, words: str) -> None:
    assert re.search(words, why_no_tensorrt(*arguments))


def test_the_peak_of_shared_memory_is_what_was_taken_meanwhile(root: Path) -> None:
    meminfo = "MemTotal:       64352872 kB\nMemFree:        1 kB\nMemAvailable:   {} kB\n"
    write_file(root, "/proc/meminfo", meminfo.format(3000))
    with shared_memory() as watch:
        write_file(root, "/proc/meminfo", meminfo.format(1000))
        end = time.monotonic() + 300
        while watch.lowest != 1000 * 1024 and time.monotonic() < end:
            time.sleep(0.01)
        write_file(root, "/proc/meminfo", meminfo.format(2500))
    found = watch.summary()
    assert found.peak_bytes == 2000 * 1024
    assert "VmHWM" in found.method


def test_the_process_peak_holds_what_it_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with shared_memory() as watch:
        held = np.ones(50_000_000, np.uint8)
        status = Path("/proc/self/status").read_text()
        del held
    resident = int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024
    found = watch.summary()
    assert found.process_peak_bytes > 0.99 * resident > 50_000_000  # the kernel counts pages in batches
    assert found.peak_bytes >= 0


def test_a_board_that_tells_nothing_has_a_card_all_the_same(root: Path) -> None:
    write_file(root, "/proc/device-tree/compatible", b"nvidia,tegra999\0")
    card = jetson_card_of(root)
    assert (card.soc, card.compute_capability, card.l4t, card.power_mode) == ("tegra999", None, None, None)
    assert card.jetson_clocks == "unknown"
    assert "root" in card.memory_clock_note
    assert "apt install" in card.tensorrt.why_not
    assert board_with_modes(root) == root
