"""The power rails of Jetson boards, from the kernel's hwmon files (JetPack 5 and newer).

INA3221 chips on the module (three channels: voltage and current) and Thor's INA238 on the carrier board (power). Files
and units: kernel documentation hwmon/ina3221 and hwmon/ina238.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dhox.bench.sensors.meter import Reading, number
from dhox.system.jetson_state import read_number, read_text
from dhox.system.sysroot import system_path

CHANNELS = (1, 2, 3)  # of an INA3221; in4 to in6 are shunt voltages, in7 is their sum: no rails
NOT_CONNECTED = "NC"
OFFSET_V = 80e-6  # an INA3221's largest shunt offset (Texas Instruments, SBOS576)

# What the figure is, by the rails that a board has; the first set that is there. A rail that is fed by another one of
# its board is in no sum: VDDQ_VDD2_1V8AO is part of VIN_SYS_5V0 (AGX Orin; NVIDIA says so, see the docs on energy).
TOTALS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("VIN",), "the input of the board: module, carrier board and what they feed"),
    (("VDD_IN",), "the input of the module; not the carrier board and its devices"),
    (("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), "the module's rails, added up (AGX Orin); not the carrier board"),
    (("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"), "the module's rails, added up (Thor); not the carrier board"),
    (("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"), "the module's rails, added up (AGX Xavier); not the carrier board"),
)
ERRORS = {
    "ina3221": (
        "INA3221: gain error up to 0.25 %, shunt resistor about 1 %, and a constant offset of up to 80 uV at the "
        "shunt, which weighs most on weakly loaded rails and cancels out of net figures; steps of 40 uV and 8 mV"
    ),
    "ina238": "INA238: about 1 %, mostly the shunt resistor's",
}


@dataclass(frozen=True)
class Rail:
    """One measured supply. Either `power` (microwatts), or `volts` (millivolts) and `amps` (milliamperes)."""

    name: str
    chip: str
    power: Path | None
    volts: Path
    amps: Path
    shunt_ohm: float | None

    def watts(self) -> float:
        """Power now; negative where the sensor's offset exceeds the load. Raises OSError."""
        if self.power is not None:
            return number(self.power) / 1e6
        return number(self.volts) * number(self.amps) / 1e6

    def offset_w(self) -> float | None:
        """The largest constant error of an INA3221 channel: its offset over the shunt, at the rail's voltage now."""
        if self.chip != "ina3221" or self.shunt_ohm is None:
            return None
        return OFFSET_V / self.shunt_ohm * number(self.volts) / 1e3


def find_rails() -> list[Rail]:
    """Every labelled rail of every power monitor; whether it can be read is another matter."""
    rails = []
    for chip in sorted(system_path("/sys/class/hwmon").glob("hwmon*")):
        kind = read_text(chip / "name")
        if kind == "ina3221":
            for channel in CHANNELS:
                label = read_text(chip / f"in{channel}_label")
                if label and label != NOT_CONNECTED:
                    rails.append(rail(chip, kind, label, channel))
        elif kind == "ina238":
            rails.append(rail(chip, kind, read_text(chip / "label") or "VIN", 1))
    return rails


def rail(chip: Path, kind: str, name: str, channel: int) -> Rail:
    """One channel of a chip's folder."""
    power, shunt = chip / f"power{channel}_input", read_number(chip / f"shunt{channel}_resistor")
    return Rail(
        name=name,
        chip=kind,
        power=power if kind == "ina238" and power.exists() else None,
        volts=chip / f"in{channel}_input",
        amps=chip / f"curr{channel}_input",
        shunt_ohm=shunt / 1e6 if shunt else None,  # the file is in micro-ohms
    )


class HwmonMeter:
    """The rails of one board; `meter.Meter`. At JetPack 6 on an AGX Orin, one register is read in 0.55 ms (I2C)."""

    def __init__(self, rails: list[Rail], total: tuple[str, ...], includes: str) -> None:
        self.sources = rails
        self.rails = tuple(rail.name for rail in rails)
        self.total = total
        self.includes = includes
        self.estimate = len(total) > 1
        counted = [rail for rail in rails if rail.name in total]
        chips = sorted({rail.chip for rail in counted})
        self.name = f"{' and '.join(chip.upper() for chip in chips)} power monitor"
        self.error = "; ".join(ERRORS[chip] for chip in chips)
        offsets = [offset for rail in counted if (offset := rail.offset_w()) is not None]
        self.error_w = sum(offsets) if len(offsets) == len(counted) else None

    def read(self) -> Reading:
        """Every rail once, in watts. Raises OSError."""
        return Reading(joules=None, watts={rail.name: rail.watts() for rail in self.sources})

    def close(self) -> None:
        """Nothing is held open."""


def open_hwmon() -> tuple[HwmonMeter | None, str]:
    """The board's meter, or None and the reason with what to do.

    Rails outside the total that cannot be read are left out; one inside it makes the figure impossible.
    """
    found = find_rails()
    if not found:
        return None, (
            "no power monitor (INA3221 or INA238) under /sys/class/hwmon. Boards with JetPack 4 and the Jetson Nano "
            "2GB have none there; in a container, mount the host's /sys"
        )
    names = [rail.name for rail in found]
    match = next(((total, text) for total, text in TOTALS if set(total) <= set(names)), None)
    if match is None:
        return None, (
            f"this board's rails ({', '.join(names)}) are of no board that dhox knows, so which of them feeds another "
            "is unknown and a sum could count twice. Report the board and these names to dhox"
        )
    readable = []
    for rail in found:
        try:
            rail.watts()
        except OSError as err:
            if rail.name in match[0]:
                return None, unreadable(rail, err)
        else:
            readable.append(rail)
    return HwmonMeter(readable, *match), ""


def unreadable(rail: Rail, err: OSError) -> str:
    """Why a rail of the total gives no figure, and what to do."""
    path = Path(str(err.filename or rail.volts))
    advice = (
        f"Let this user read it: sudo chmod a+r {path.parent}/*_input"
        if isinstance(err, PermissionError)
        else "Look at the kernel's messages about its chip (sudo dmesg | grep ina)"
    )
    return f"rail {rail.name} cannot be read ({path}: {err.strerror}). {advice}"
