"""Which packages dhox needs on another machine, and their wheels: pip resolves, the other machine's markers decide."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from dhox.errors import DhoxError
from dhox.system.wheels import Target, canonical, needed_by, pip_error, run_pip

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "src", "distill", "export", "bench")
ROUNDS = 5  # of pip, until nothing is missing


@dataclass(frozen=True)
class Package:
    """One package as pip resolved it. `requires`: its requirements as its metadata lists them."""

    name: str
    version: str
    requires: tuple[str, ...]


@dataclass(frozen=True)
class Present:
    """What the other machine has of its own: names to leave out, and the versions of those whose version was told."""

    names: frozenset[str]
    versions: tuple[tuple[str, str], ...]


def read_present(words: str) -> Present:
    """From words as `torch torchvision==0.24.0`. Raises DhoxError for one that is neither NAME nor NAME==VERSION."""
    found = [re.fullmatch(r"([A-Za-z0-9][\w.-]*)(?:==([\w.+!-]+))?", word) for word in words.split()]
    if None in found:
        raise DhoxError(f"{words!r} does not name packages.", "Write for example 'torch torchvision==0.24.0'.")
    pairs = [(canonical(one[1]), one[2]) for one in found if one is not None]
    return Present(frozenset(name for name, _ in pairs), tuple((name, version) for name, version in pairs if version))


def build_dhox(folder: Path) -> Path:
    """The wheel of this checkout, built from a copy, so that nothing of an earlier build gets into it."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place, "dhox")
        copy.mkdir()
        for name in SOURCES:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copy(ROOT / name, copy / name)
        done = run_pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(copy))
    if done.returncode:
        raise DhoxError(f"The wheel of dhox could not be built: {pip_error(done)}.", "pip needs the package index.")
    return next(folder.glob("dhox-*.whl"))


def resolve(dhox: Path, extras: tuple[str, ...], target: Target, present: Present) -> list[Package]:
    """dhox, pip and every package that they need on the target, less what it has. Raises DhoxError where pip cannot."""
    suffix = f"[{','.join(extras)}]" if extras else ""
    wanted, roots = [f"{dhox}{suffix}", "pip"], [f"dhox{suffix}", "pip"]
    for _ in range(ROUNDS):
        found = dry_run(wanted, target, present)
        needed, lacking = closure(roots, found, target, present.names)
        if not lacking:
            return needed
        # pip reads markers for the Python that runs it, not for the target's: what they hide is asked for by name.
        wanted += lacking
    raise DhoxError(
        f"The packages still lack {', '.join(lacking)} after {ROUNDS} times pip.",
        "Leave out what the machine has of its own (HAVE), or take fewer EXTRAS.",
    )


def dry_run(wanted: list[str], target: Target, present: Present) -> dict[str, Package]:
    """What pip would install on the target, by name; from metadata, so that no large wheel is fetched for it."""
    with tempfile.TemporaryDirectory() as place:
        report, limits = Path(place, "report.json"), Path(place, "constraints.txt")
        limits.write_text("".join(f"{name}=={version}\n" for name, version in present.versions))
        for name, version in present.versions:
            write_stand_in(Path(place), name, version, target)
        done = run_pip(
            "install", "--dry-run", "--ignore-installed", "--report", str(report), "--constraint", str(limits),
            "--find-links", place, *target.pip_options(), "--target", place, *wanted,
        )  # fmt: skip
        if done.returncode:
            raise DhoxError(
                f"pip finds no wheels for {target.name()}: {reason(done)}.",
                "Is the package index reached? What the machine has, or has no wheel, is left out by its name and "
                "version: HAVE='NAME==VERSION ...'.",
            )
        entries = [entry["metadata"] for entry in json.loads(report.read_text(encoding="utf-8"))["install"]]
    return {
        canonical(entry["name"]): Package(entry["name"], entry["version"], tuple(entry.get("requires_dist", ())))
        for entry in entries
    }


def reason(done: subprocess.CompletedProcess[str]) -> str:
    """Why pip found nothing: the versions that exclude each other, where it names them."""
    conflict = re.search(r"The conflict is caused by:\n((?: +.*\n)+)", done.stdout)
    return "; ".join(line.strip() for line in conflict[1].splitlines()) if conflict else pip_error(done)


def write_stand_in(folder: Path, name: str, version: str, target: Target) -> None:
    """A wheel without content, for a package that the machine has: pip neither looks for it nor for what it needs.

    It has the best tag of the target and a build number, so that pip takes none of the index in its place.
    """
    stem, python = f"{name.replace('-', '_')}-{version}", f"cp{target.python[0]}{target.python[1]}"
    tag = f"{python}-{python}-{target.tags()[0]}"
    with zipfile.ZipFile(folder / f"{stem}-999-{tag}.whl", "w") as wheel:
        for file, text in (
            ("METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"),
            ("WHEEL", f"Wheel-Version: 1.0\nGenerator: dhox\nRoot-Is-Purelib: false\nTag: {tag}\nBuild: 999\n"),
            ("RECORD", ""),
        ):
            wheel.writestr(f"{stem}.dist-info/{file}", text)


def closure(
    roots: list[str], found: dict[str, Package], target: Target, present: frozenset[str]
) -> tuple[list[Package], list[str]]:
    """(the packages that `roots` need on the target, the requirements that none of `found` meets)."""
    todo = [Requirement(root) for root in roots]
    seen: set[tuple[str, str]] = set()
    lacking: set[str] = set()
    while todo:
        requirement = todo.pop()
        name = canonical(requirement.name)
        if name in present:
            continue
        package = found.get(name)
        if package is None or not requirement.specifier.contains(package.version, prereleases=True):
            lacking.add(str(requirement))
            continue
        for extra in {"", *requirement.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            todo += [Requirement(text) for text in needed_by(package.requires, target, extra)]
    return [found[name] for name in sorted({name for name, _ in seen})], sorted(lacking)


def fetch(packages: list[Package], target: Target, folder: Path) -> None:
    """Their wheels into a folder, all but dhox's own. Raises DhoxError where pip cannot."""
    exact = [f"{package.name}=={package.version}" for package in packages if package.name != "dhox"]
    print(f"Fetching {len(exact)} packages for {target.name()}", file=sys.stderr)
    done = run_pip("download", "--no-deps", *target.pip_options(), "--dest", str(folder), *exact)
    if done.returncode:
        raise DhoxError(f"The packages could not be fetched: {pip_error(done)}.", "Run it again.")
