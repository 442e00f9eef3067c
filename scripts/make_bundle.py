"""Write a bundle: dhox and the wheels that it needs on another machine, in parts, with an installer for no network.

    python scripts/make_bundle.py x86_64-cuda --python-version 3.12 --part-mb 1000 --have "torch torchvision"

`make bundle` calls it; docs/offline.md tells the rest.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

from bundle_archive import write_archive, write_installer
from bundle_packages import ROOT, Package, Present, build_dhox, fetch, read_present, resolve

from dhox.errors import DhoxError
from dhox.system.wheels import Target

SMALLEST_PART, LARGEST_PART = 1, 4000  # MB; a file of FAT32 ends below 4.3 GB


@dataclass(frozen=True)
class Kind:
    """A kind of machine. `glibc`: the oldest it may have; `sees_system`: dhox uses what the system's Python has."""

    machine: str
    python: tuple[int, int]
    glibc: tuple[int, int]
    extras: tuple[str, ...]
    sees_system: bool = False


KINDS = {
    "x86_64-cuda": Kind("x86_64", (3, 12), (2, 28), ("export", "cuda", "energy")),
    "x86_64-cpu": Kind("x86_64", (3, 12), (2, 28), ("cpu",)),
    "jetpack6": Kind("aarch64", (3, 10), (2, 35), ("cpu",), sees_system=True),  # Ubuntu 22.04
    "jetpack7": Kind("aarch64", (3, 12), (2, 39), ("cpu",), sees_system=True),  # Ubuntu 24.04
}


@dataclass(frozen=True)
class Order:
    """What was asked for. `extras`: empty for the base alone."""

    kind: str
    target: Target
    extras: tuple[str, ...]
    present: Present
    part_bytes: int
    out: Path

    @property
    def sees_system(self) -> bool:
        """Whether the environment there must see what the system's Python has."""
        return KINDS[self.kind].sees_system or bool(self.present.names)


def python_version(text: str) -> tuple[int, int]:
    """3.12 -> (3, 12)."""
    major, _, minor = text.partition(".")
    if major != "3" or not minor.isdigit() or int(minor) < 10:
        raise argparse.ArgumentTypeError(f"{text!r} is not 3.10 or newer, written as 3.12")
    return 3, int(minor)


def part_size(text: str) -> int:
    """Megabytes within the limits, in bytes."""
    if not text.isdigit() or not SMALLEST_PART <= int(text) <= LARGEST_PART:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {SMALLEST_PART} to {LARGEST_PART}")
    return int(text) * 1_000_000


def read_order(words: list[str]) -> Order:
    """The order of a command line."""
    parser = argparse.ArgumentParser(description="Write a bundle for a machine without a network.")
    parser.add_argument("target", choices=KINDS, help="TARGET: the kind of machine")
    parser.add_argument("--python-version", type=python_version, help="PYTHON_VERSION: its Python, as 3.12")
    parser.add_argument("--part-mb", type=part_size, default="1000", help="PART_MB: size of a part (%(default)s)")
    parser.add_argument("--extras", help="EXTRAS of dhox, as export,cuda; none for the base alone")
    parser.add_argument("--have", default="", help="HAVE: packages that it has, as 'torch torchvision==0.24.0'")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="the folder to write into (dist)")
    given = parser.parse_args(words)
    kind = KINDS[given.target]
    target = Target(given.python_version or kind.python, kind.machine, kind.glibc)
    extras = kind.extras if given.extras is None else read_extras(given.extras)
    return Order(given.target, target, extras, read_present(given.have), given.part_mb, given.out)


def read_extras(text: str) -> tuple[str, ...]:
    """From `export,cuda`; `none`: the base alone. Raises DhoxError for an extra that dhox has not."""
    extras = tuple(text.replace(",", " ").split())
    known = distribution("dhox").metadata.get_all("Provides-Extra") or []
    unknown = sorted({*extras} - {*known, "none"})
    if unknown:
        raise DhoxError(f"dhox has no extra {', '.join(unknown)}.", f"EXTRAS may be {', '.join(known)} or none.")
    return tuple(extra for extra in extras if extra != "none")


def make_bundle(order: Order) -> Path:
    """The folder of the bundle; it appears when it is whole, in the place of an earlier one of the same name."""
    order.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=order.out, prefix=".bundle-") as place:
        wheels, folder = Path(place, "wheels"), Path(place, "bundle")
        wheels.mkdir()
        folder.mkdir()
        dhox = build_dhox(wheels)
        packages = resolve(dhox, order.extras, order.target, order.present)
        fetch(packages, order.target, wheels)
        version = dhox.name.split("-")[1]
        final = order.out / f"dhox-{version}-{order.kind}-cp{order.target.python[0]}{order.target.python[1]}"
        write_bundle(order, version, packages, wheels, folder, f"{final.name}.tar")
        shutil.rmtree(final, ignore_errors=True)
        folder.rename(final)
    return final


def write_bundle(order: Order, version: str, packages: list[Package], wheels: Path, folder: Path, archive: str) -> None:
    """The parts, SHA256SUMS, packages.txt and install.sh into a folder."""
    sums = write_archive(wheels, folder / archive, order.part_bytes)
    (folder / "SHA256SUMS").write_text("".join(f"{value}  {name}\n" for name, value in sums.items()))
    (folder / "packages.txt").write_text("".join(f"{one.name}=={one.version}\n" for one in packages))
    target = order.target
    settings = {
        "version": version, "kind": order.kind, "extras": ",".join(order.extras), "parts": str(len(sums)),
        "python_version": f"{target.python[0]}.{target.python[1]}", "machine": target.machine,
        "glibc": f"{target.glibc[0]}.{target.glibc[1]}", "present": " ".join(sorted(order.present.names)),
        "sees_system": "--system-site-packages" if order.sees_system else "",
    }  # fmt: skip
    write_installer(folder, settings)


def main() -> None:
    try:
        folder = make_bundle(read_order(sys.argv[1:]))
    except DhoxError as err:
        sys.exit(f"Error: {err}")
    size = sum(path.stat().st_size for path in folder.glob("*.part-*"))
    print(f"{folder}: {len(list(folder.glob('*.part-*')))} parts, {size / 1e6:,.1f} MB")
    print(f"Copy the folder to the machine, and there: sh {folder.name}/install.sh FOLDER")


if __name__ == "__main__":
    main()
