"""The packages that a board's Python needs, made ready here: wheels for its tags by pip, and dhox's own files.

Nothing is installed on the board: it needs no internet, no pip and no venv. Its own onnxruntime and TensorRT are used.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shlex
import shutil
from importlib.metadata import distribution, distributions
from pathlib import Path

from dhox.artefacts.files import user_cache
from dhox.artefacts.remote import Probe
from dhox.bench.remote.bundle import Bundle
from dhox.console import console
from dhox.errors import DhoxError, require
from dhox.system.wheels import OLDEST_GLIBC, Target, canonical, needed_by, pip_error, run_pip

PACKAGES = ("dhox", "dhox.distill", "dhox.export", "dhox.bench")
NUMPY_2_FROM = (1, 19)  # earlier builds of onnxruntime import numpy 1 only
ROUNDS = 5  # of pip, until nothing is missing


def target_of(host: str, probe: Probe) -> Target:
    """The board's Target from its probe. Raises DhoxError for a system that no wheels are made for."""
    library, version = probe.libc
    machine = {"arm64": "aarch64", "amd64": "x86_64"}.get(probe.machine, probe.machine)
    numbers = [int(number) for number in version.split(".")[:2] if number.isdigit()]
    if probe.system != "Linux" or library != "glibc" or machine not in OLDEST_GLIBC or len(numbers) != 2:
        raise DhoxError(
            f"{host} is {probe.system} {probe.machine} with {library or 'an unknown C library'} {version}: dhox "
            "knows wheels for Linux with glibc on aarch64 and x86_64.",
            "Copy the export there and install dhox by hand.",
        )
    own = probe.onnxruntime
    return Target(
        probe.python.version[:2], machine, (numbers[0], numbers[1]), own.found.split()[0] if own.works else None
    )


def requirements(target: Target) -> list[str]:
    """What dhox needs there, from its own metadata: the base, and onnxruntime where the board has none."""
    dhox = distribution("dhox").requires or []
    wanted = [
        *needed_by(dhox, target, ""),
        *([] if target.own_onnxruntime else needed_by(dhox, target, "cpu")),
    ]
    if target.own_onnxruntime is not None:
        own = tuple(int(number) for number in target.own_onnxruntime.split(".")[:2] if number.isdigit())
        if own < NUMPY_2_FROM:
            wanted.append("numpy<2")
    return sorted(set(wanted))


def wheel_folder(host: str, target: Target) -> Path:
    """A folder with the packages for a board, unpacked; made by pip once, then kept in this user's cache.

    Raises DhoxError where pip cannot get them, with the command that can be run elsewhere.
    """
    wanted = requirements(target)
    key = hashlib.sha256(json.dumps([wanted, target.name()]).encode()).hexdigest()[:12]
    cache = user_cache("boards")
    final = cache / f"{target.name()}-{key}"
    if final.is_dir():
        return final
    partial = cache / f".{final.name}.{os.getpid()}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for _ in range(ROUNDS):
            shutil.rmtree(partial, ignore_errors=True)
            install(host, wanted, target, partial, final)
            # pip reads markers for the Python that runs it, not for the board's: what they hide is asked for by name.
            lacking = unmet(partial, target)
            if not lacking:
                break
            wanted = sorted({*wanted, *lacking})
        else:
            raise DhoxError(
                f"The packages for {host} ({target.name()}) still lack {', '.join(lacking)} after {ROUNDS} times pip.",
                f"Put a folder with all of them into {cache}, named {final.name}.",
            )
        shutil.rmtree(partial / "bin", ignore_errors=True)
        if not final.is_dir():
            partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def install(host: str, wanted: list[str], target: Target, folder: Path, final: Path) -> None:
    """One run of pip for another platform."""
    words = ["install", *target.pip_options()]
    done = run_pip(*words, "--quiet", "--no-compile", "--target", str(folder), *wanted)
    if done.returncode:
        command = shlex.join(["python3", "-m", "pip", *words, "--target", final.name, *wanted])
        raise DhoxError(
            f"The packages for {host} ({target.name()}) could not be fetched here: {pip_error(done)}.",
            f"Where the package index can be reached, run `{command}`, and put "
            f"the folder {final.name} into {final.parent}.",
        )


def unmet(folder: Path, target: Target) -> list[str]:
    """Requirements of the packages in a folder that no package in it meets."""
    packages = list(distributions(path=[str(folder)]))
    have = {canonical(package.metadata["Name"]) for package in packages}
    parse = require("packaging.requirements", "remote").Requirement
    return sorted(
        text
        for package in packages
        for text in needed_by(package.requires or [], target, "")
        if canonical(parse(text).name) not in have
    )


def add_packages(bundle: Bundle, host: str, probe: Probe) -> list[str]:
    """dhox and the packages that it needs on this board; the names of their trees, in the order of PYTHONPATH."""
    wheels = wheel_folder(host, target_of(host, probe))
    packages = [bundle.add_tree(dhox_files()), bundle.add_tree(_folder_files(wheels))]
    name = "environment-{}.{}.json".format(*probe.python.version)
    (bundle.folder / name).write_text(json.dumps(packages))
    return packages


def environment_of(store: str, packages: list[str]) -> dict[str, str]:
    """The environment of a Python there that finds dhox; what the board itself has comes after it."""
    return {
        "PYTHONPATH": ":".join(f"{store}/trees/{name}" for name in packages), "PYTHONSAFEPATH": "1", "PYTHONUTF8": "1",
        "PYTHONUNBUFFERED": "1", "COLUMNS": str(console.width), "DHOX_ERRORS": "json",
    }  # fmt: skip


def _folder_files(folder: Path) -> dict[str, Path]:
    """Every file below a folder, by its relative path; no bytecode."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def dhox_files() -> dict[str, Path | bytes]:
    """dhox's own files for a board by relative path, from wherever it is installed; its metadata along with them."""
    found: dict[str, Path | bytes] = {}
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations
        folder = Path(next(iter(spec.submodule_search_locations)))
        for path in sorted(folder.rglob("*")):
            name = f"{package.replace('.', '/')}/{path.relative_to(folder).as_posix()}"
            if path.suffix in {".py", ".j2", ".json"} and not name.startswith("dhox/demo/"):  # the demo stays here
                found[name] = path
    own = distribution("dhox")
    found[f"dhox-{own.version}.dist-info/METADATA"] = (own.read_text("METADATA") or "").encode()
    return found
