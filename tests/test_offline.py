"""Bundles for machines without a network: which packages, the parts, and the installer in an empty environment."""

from __future__ import annotations

import ensurepip
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType

import pytest

from dhox.errors import DhoxError
from dhox.system.wheels import Target, canonical, run_pip

ROOT = Path(__file__).parents[1]
ORIN = Target((3, 10), "aarch64", (2, 35))
PYTHON = sys.version_info[:2]
GLIBC = platform.libc_ver()[1]
SOURCE = "VERSION = '9.0'\ndef main():\n    import os, sys\n    print('tiny dhox', sys.argv[1:], bool(os.environ.get('X')))\n"

pytestmark = pytest.mark.skipif(not GLIBC, reason="no glibc here")


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")


@pytest.fixture
def packages(scripts: None) -> ModuleType:
    import bundle_packages

    return bundle_packages


def wheel(folder: Path, name: str, version: str, *lines: str, tag: str = "py3-none-any", files: dict[str, str] | None = None) -> Path:  # fmt: skip
    """A real wheel; `lines`: of its metadata."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    content = {
        f"{info}/METADATA": "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines, ""]),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: {tag}\n",
        **(files or {}),
    }
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in content.items():
            archive.writestr(file, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in [*content, f"{info}/RECORD"]))
    return path


def tiny_dhox(folder: Path, *lines: str, source: str = SOURCE) -> Path:
    files = {"dhox.py": source, "dhox-9.0.dist-info/entry_points.txt": "[console_scripts]\ndhox = dhox:main\n"}
    return wheel(folder, "dhox", "9.0", *lines, files=files)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that pip finds wheels in: packages for an Orin, and one that is not there for it."""
    folder = tmp_path / "index"
    wheel(folder, "pip", "99")
    wheel(folder, "fast", "2", "Requires-Dist: old; python_version < '3.11'", tag="cp310-cp310-manylinux_2_28_aarch64")
    wheel(folder, "fast", "3", tag="cp310-cp310-manylinux_2_39_aarch64")  # needs a newer glibc
    wheel(folder, "fast", "4", tag="cp312-cp312-manylinux_2_28_aarch64")
    wheel(folder, "old", "1", "Requires-Dist: winlib; sys_platform == 'win32'")
    wheel(folder, "big", "5", "Requires-Dist: cuda[blas]", "Requires-Dist: old")
    wheel(folder, "cuda", "13", "Provides-Extra: blas", "Requires-Dist: blas; extra == 'blas'")
    wheel(folder, "blas", "1")
    wheel(folder, "near", "1", "Requires-Dist: big>=4")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def dhox(tmp_path: Path) -> Path:
    return tiny_dhox(
        tmp_path / "own", "Provides-Extra: train", "Provides-Extra: all", "Requires-Dist: fast",
        "Requires-Dist: near; extra == 'train'", "Requires-Dist: dhox[train]; extra == 'all'",
    )  # fmt: skip


def names(found: list[object]) -> list[str]:
    return [f"{package.name} {package.version}" for package in found]  # type: ignore[attr-defined]


def test_the_target_decides_and_not_the_python_that_runs_pip(packages: ModuleType, index: Path, dhox: Path) -> None:
    nothing = packages.read_present("")
    base = packages.resolve(dhox, (), ORIN, nothing)
    assert names(base) == ["dhox 9.0", "fast 2", "old 1", "pip 99"]
    whole = packages.resolve(dhox, ("all",), ORIN, nothing)
    assert names(whole) == ["big 5", "blas 1", "cuda 13", "dhox 9.0", "fast 2", "near 1", "old 1", "pip 99"]
    newer = packages.resolve(dhox, (), Target((3, 12), "aarch64", (2, 39)), nothing)
    assert names(newer) == ["dhox 9.0", "fast 4", "pip 99"]
    packages.fetch(base, ORIN, index.parent / "wheels")
    assert sorted(path.name for path in (index.parent / "wheels").iterdir()) == [
        "fast-2-cp310-cp310-manylinux_2_28_aarch64.whl",
        "old-1-py3-none-any.whl",
        "pip-99-py3-none-any.whl",
    ]


def test_what_the_machine_has_is_left_out_with_all_that_only_it_needs(
    packages: ModuleType, index: Path, dhox: Path
) -> None:
    for words in ("big", "big==7.1+cu130", "Big cuda==1"):
        found = names(packages.resolve(dhox, ("train",), ORIN, packages.read_present(words)))
        assert found == ["dhox 9.0", "fast 2", "near 1", "old 1", "pip 99"], words
    (index / "big-5-py3-none-any.whl").unlink()  # what the index has not
    assert "near 1" in names(packages.resolve(dhox, ("train",), ORIN, packages.read_present("big==5")))


def test_versions_that_exclude_each_other_are_named(packages: ModuleType, index: Path, dhox: Path) -> None:
    with pytest.raises(DhoxError) as caught:
        packages.resolve(dhox, ("train",), ORIN, packages.read_present("big==3"))
    assert all(name in caught.value.reason for name in ("near", "big>=4", "big==3"))


def test_what_has_no_wheel_is_named(packages: ModuleType, index: Path, dhox: Path) -> None:
    (index / "near-1-py3-none-any.whl").unlink()
    with pytest.raises(DhoxError, match="near"):
        packages.resolve(dhox, ("train",), ORIN, packages.read_present(""))
    for words in ("torch>=2", "torch = 2", "-e x", "torch==2;x"):
        with pytest.raises(DhoxError):
            packages.read_present(words)


@pytest.mark.parametrize("size", [1000, 10_240, 12_345, 1 << 20])
def test_parts_have_their_size_and_make_the_archive_again(scripts: None, tmp_path: Path, size: int) -> None:
    from bundle_archive import write_archive

    (tmp_path / "wheels").mkdir()
    content = {f"{name}.whl": os.urandom(20_000 + 7 * number) for number, name in enumerate("abc")}
    for name, data in content.items():
        (tmp_path / "wheels" / name).write_bytes(data)
    (tmp_path / "wheels/other.txt").touch()
    sums = write_archive(tmp_path / "wheels", tmp_path / "x.tar", size)
    parts = sorted(tmp_path.glob("x.tar.part-*"))
    assert [part.name for part in parts] == list(sums)
    assert [part.stat().st_size for part in parts[:-1]] == [size] * (len(parts) - 1)
    assert 1 <= parts[-1].stat().st_size <= size
    assert [hashlib.sha256(part.read_bytes()).hexdigest() for part in parts] == list(sums.values())
    (tmp_path / "x.tar").write_bytes(b"".join(part.read_bytes() for part in parts))
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert {name: tar.extractfile(name).read() for name in tar.getnames()} == content  # type: ignore[union-attr]


def test_too_many_parts_are_refused_before_any_is_written(scripts: None, tmp_path: Path) -> None:
    from bundle_archive import write_archive

    (tmp_path / "a.whl").write_bytes(bytes(10_000))
    with pytest.raises(DhoxError, match="PART_MB"):
        write_archive(tmp_path, tmp_path / "x.tar", 10)
    assert not list(tmp_path.glob("x.tar*"))


@pytest.mark.parametrize("words", [[], ["orin"], ["jetpack6", "--part-mb", "0"], ["jetpack6", "--part-mb", "4001"], ["jetpack6", "--part-mb", "1.5"], ["jetpack6", "--python-version", "3.9"], ["jetpack6", "--python-version", "312"]])  # fmt: skip
def test_an_order_that_cannot_be_is_refused(scripts: None, words: list[str]) -> None:
    from make_bundle import read_order

    with pytest.raises(SystemExit) as caught:
        read_order(words)
    assert caught.value.code == 2


def test_an_order_says_what_its_kind_does_not(scripts: None) -> None:
    from make_bundle import read_order

    board = read_order(["jetpack7"])
    assert (board.target, board.extras, board.sees_system) == (Target((3, 12), "aarch64", (2, 39)), ("cpu",), True)
    desk = read_order(["x86_64-cuda", "--python-version", "3.11", "--part-mb", "60", "--extras", "distill, cuda"])
    assert (desk.target.python, desk.part_bytes, desk.extras) == ((3, 11), 60_000_000, ("distill", "cuda"))
    assert not desk.sees_system
    assert read_order(["x86_64-cuda", "--have", "torch"]).sees_system
    assert read_order(["jetpack6", "--extras", "none"]).extras == ()
    with pytest.raises(DhoxError, match="cuba"):
        read_order(["jetpack6", "--extras", "cuba"])


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_hands_over_what_it_is_told() -> None:
    words = ["TARGET=jetpack6", "PYTHON_VERSION=3.11", "PART_MB=60", "EXTRAS=cpu report", "HAVE=torch timm==1.0.20"]
    done = subprocess.run(["make", "-n", "-C", ROOT, "bundle", *words], capture_output=True, text=True, check=True)
    call = " ".join(done.stdout.replace("\\\n", " ").split())
    assert "make_bundle.py jetpack6 --python-version 3.11 --part-mb 60 --extras 'cpu report'" in call
    assert "--have 'torch timm==1.0.20'" in call


@dataclass
class Bundle:
    folder: Path

    def install(self, place: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run its installer in another folder than its own, with a pip that is told to ask an index that is not there."""
        variables = {"PIP_INDEX_URL": "http://127.0.0.1:9", "PIP_NO_BINARY": ":all:"} | environment
        return subprocess.run(
            ["sh", os.path.relpath(self.folder / "install.sh", place.parent), place.name],
            capture_output=True, text=True, check=False, cwd=place.parent, env=os.environ | variables,
        )  # fmt: skip

    def parts(self) -> list[Path]:
        return sorted(self.folder.glob("*.part-*"))


@pytest.fixture
def bundle(scripts: None, tmp_path: Path) -> Bundle:
    """A bundle of three tiny wheels and a real pip for this Python, in parts of 100 kB."""
    return make(tmp_path, Target(PYTHON, platform.machine(), (2, 17)))


def make(place: Path, target: Target, present: str = "", source: str = SOURCE) -> Bundle:
    """A bundle with a fake dhox that needs `first`, and with the extra cpu `second`; less what is `present`."""
    from bundle_packages import Package, read_present
    from make_bundle import Order, write_bundle

    wheels, folder = place / "some wheels", place / "a bundle's folder"
    for made in (wheels, folder):
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
    pips = list(Path(ensurepip.__file__).with_name("_bundled").glob("pip-*.whl"))
    if not pips:
        pytest.skip("this Python carries no wheel of pip")
    shutil.copy(pips[0], wheels)
    needs = ("Provides-Extra: cpu", "Requires-Dist: first", "Requires-Dist: second; extra == 'cpu'")
    tiny_dhox(wheels, *needs, source=source)
    for name in {"first", "second"} - {*present.split()}:
        wheel(wheels, name, "1", files={f"{name}.py": ""})
    order = Order("x86_64-cpu", target, ("cpu",), read_present(present), 100_000, place)
    write_bundle(order, "9.0", [Package("dhox", "9.0", ()), Package("first", "1", ())], wheels, folder, "dhox-9.tar")
    return Bundle(folder)


def test_an_empty_environment_gets_all_of_it_without_an_index(bundle: Bundle, tmp_path: Path) -> None:
    assert len(bundle.parts()) > 5
    place, absent = tmp_path / "an environment", tmp_path / "absent"
    absent.mkdir()
    (absent / "ensurepip.py").write_text("raise ImportError")  # as where python3-venv is not installed
    done = bundle.install(place, TMPDIR=str(tmp_path), PYTHONPATH=str(absent))
    assert done.returncode == 0, done.stderr
    assert "tiny dhox ['--version']" in done.stdout
    (packages,) = place.glob("lib/python*/site-packages")
    found = {package.metadata["Name"]: package.version for package in distributions(path=[str(packages)])}
    assert found.pop("pip")
    assert found == {"dhox": "9.0", "first": "1", "second": "1"}
    assert not list(tmp_path.glob("dhox.*"))  # nothing is left where it unpacked
    again = make(tmp_path, Target(PYTHON, platform.machine(), (2, 17)), source=SOURCE.replace("tiny", "newer"))
    assert "newer dhox" in again.install(place).stdout  # of the same version, into what is there


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
def test_damage_stops_it_before_anything_is_made(bundle: Bundle, tmp_path: Path) -> None:
    place, third = tmp_path / "environment", bundle.parts()[2]
    whole, sums = third.read_bytes(), (bundle.folder / "SHA256SUMS").read_text()

    def refused(*words: str) -> None:
        done = bundle.install(place)
        assert done.returncode == 1, done.stdout
        assert all(word in done.stderr for word in words), done.stderr
        assert not place.exists()

    flip(third)
    refused(third.name, "damaged")
    third.write_bytes(whole[:-1])
    refused(third.name, "damaged")
    third.unlink()
    refused(third.name, "missing")
    third.write_bytes(whole)
    (bundle.folder / "SHA256SUMS").write_text("".join(sums.splitlines(keepends=True)[:-1]))
    refused("SHA256SUMS", str(len(bundle.parts())))
    (bundle.folder / "SHA256SUMS").write_text(sums)
    (bundle.folder / "dhox-9.tar.part-999").write_text("of another bundle")
    assert bundle.install(place).returncode == 0


@pytest.mark.parametrize(
    ("target", "named"),
    [
        (Target((3, 99), platform.machine(), (2, 17)), "PYTHON_VERSION={}.{}".format(*PYTHON)),
        (Target(PYTHON, "riscv64", (2, 17)), platform.machine()),
        (Target(PYTHON, platform.machine(), (2, 999)), GLIBC),
    ],
)
def test_a_machine_that_it_does_not_fit_is_told_why(scripts: None, target: Target, named: str, tmp_path: Path) -> None:
    done = make(tmp_path, target).install(tmp_path / "environment", PYTHON=sys.executable)
    assert done.returncode == 1
    assert named in done.stderr
    assert not (tmp_path / "environment").exists()


def test_what_the_machine_should_have_and_has_not_is_named(scripts: None, tmp_path: Path) -> None:
    bundle = make(tmp_path, Target(PYTHON, platform.machine(), (2, 17)), present="second")
    assert "sees_system=--system-site-packages" in (bundle.folder / "install.sh").read_text()
    done = bundle.install(tmp_path / "environment")
    assert done.returncode == 1
    assert "should have: second" in done.stderr
    assert "No matching distribution found for second" in done.stderr


def test_it_says_how_it_is_called_and_what_python_is_missing(bundle: Bundle, tmp_path: Path) -> None:
    done = subprocess.run(["sh", bundle.folder / "install.sh"], capture_output=True, text=True, check=False)
    assert (done.returncode, "FOLDER" in done.stderr) == (1, True)
    done = bundle.install(tmp_path / "environment", PYTHON="/no/python")
    assert (done.returncode, "/no/python" in done.stderr) == (1, True)
    (tmp_path / "venv.py").write_text("raise ImportError")
    done = bundle.install(tmp_path / "environment", PYTHONPATH=str(tmp_path))
    assert (done.returncode, "python{}.{}-venv".format(*PYTHON) in done.stderr) == (1, True)


def index_answers() -> bool:
    """Whether pip can ask a package index here."""
    return run_pip("download", "--no-deps", "--dest", ".", "annotated-doc").returncode == 0


@pytest.mark.slow
def test_a_real_bundle_of_this_python_installs_and_runs(tmp_path: Path) -> None:
    if platform.machine() != "x86_64" or not index_answers():
        pytest.skip("needs x86_64 and a package index")
    words = ["x86_64-cpu", "--python-version", "{}.{}".format(*PYTHON), "--part-mb", "20", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, ROOT / "scripts/make_bundle.py", *words], check=True, capture_output=True)
    (folder,) = tmp_path.glob("dhox-*-x86_64-cpu-cp*")
    assert str(folder) in done.stdout.decode()
    sizes = [part.stat().st_size for part in Bundle(folder).parts()]
    assert len(sizes) > 1
    assert {*sizes[:-1]} == {20_000_000}
    assert 1 <= sizes[-1] <= 20_000_000
    done = Bundle(folder).install(tmp_path / "environment", PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    (packages,) = (tmp_path / "environment").glob("lib/python*/site-packages")
    installed = {f"{canonical(one.metadata['Name'])}=={one.version}" for one in distributions(path=[str(packages)])}
    promised = (folder / "packages.txt").read_text().split()
    assert installed == {f"{canonical(name)}=={version}" for name, version in (one.split("==") for one in promised)}
    dhox = tmp_path / "environment/bin/dhox"
    assert "distill" in subprocess.run([dhox, "--help"], check=True, capture_output=True, text=True).stdout
    told = json.loads(subprocess.run([dhox, "doctor", "--json"], check=True, capture_output=True).stdout)
    assert next(one["works"] for one in told if "CPUExecutionProvider" in one["what"])
    assert not next(one["works"] for one in told if one["what"].startswith("torch "))


@pytest.mark.slow
def test_every_kind_finds_its_packages_on_the_index(packages: ModuleType, tmp_path: Path) -> None:
    if not index_answers():
        pytest.skip("needs a package index")
    from make_bundle import KINDS, read_order

    dhox = packages.build_dhox(tmp_path)
    found = {}
    for kind in KINDS:
        order = read_order([kind])
        found[kind] = {canonical(one.name) for one in packages.resolve(dhox, order.extras, order.target, order.present)}
        assert {"dhox", "pip", "numpy", "msgspec"} <= found[kind]
        assert not [name for name in found[kind] if name.startswith("tensorrt")]
    assert {"torch", "open-clip-torch", "onnx", "onnxruntime-gpu", "nvidia-ml-py", "triton"} <= found["x86_64-cuda"]
    assert "tomli" in found["jetpack6"] - found["jetpack7"]
    for kind in ("jetpack6", "jetpack7", "x86_64-cpu"):
        assert "onnxruntime" in found[kind]
        assert "torch" not in found[kind]
