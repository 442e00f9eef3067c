"""One tiny real line for the whole suite: real images, the real teacher, a tiny real student, all three stages."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from loopback import NO_INDEX, NO_SSHD, SSHD
from PIL import Image
from serving import CHROMIUM, NO_CHROMIUM

import dhox

DEMO = Path(__file__).parents[1] / "src/dhox/demo"
TEACHER = f"local-dir:{DEMO / 'teacher'}"
CLASSES = ("bag", "dress", "sandal", "trousers")
PER_CLASS = {"train": 24, "val": 20, "test": 12}

os.environ["DHOX_BENCH_LOCK"] = f"dhox-tests-{os.getpid()}"  # no test waits for another suite, nor for another worker

# `nohup make test &` leaves both ignored, and so they would be in every command that a test starts. A handler is not
# inherited: children stop as usual, and the suite itself outlives its terminal.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

settings.register_profile("dhox", deadline=None)  # no test depends on how fast this machine is
settings.load_profile("dhox")


def pytest_configure(config: pytest.Config) -> None:
    """Only `pytest -m gpu` sees a GPU: elsewhere a test means the CPU, on every machine, in its subprocesses too."""
    if "gpu" not in config.option.markexpr:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marker gpu skips without CUDA, sshd without OpenSSH's server or rsync, browser without chromium."""
    import torch

    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device, or not asked for: pytest -m gpu"))
        if item.get_closest_marker("sshd") and SSHD is None:
            item.add_marker(pytest.mark.skip(reason=NO_SSHD))
        if item.get_closest_marker("browser") and CHROMIUM is None:
            item.add_marker(pytest.mark.skip(reason=NO_CHROMIUM))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A bench over ssh, or a page, that was not tested is said aloud."""
    whose = {
        NO_SSHD: "dhox bench --host",
        NO_INDEX: "dhox bench --host",
        NO_CHROMIUM: "the pages of dhox serve and dhox label",
    }
    whose |= {f"pip install 'dhox[{name}]'": f"--log {name}" for name in ("mlflow", "wandb")}
    for reason, what in whose.items():
        skipped = [report for report in terminalreporter.stats.get("skipped", []) if reason in str(report.longrepr)]
        if skipped:
            terminalreporter.write_line(f"{len(skipped)} tests of {what} were skipped: {reason}")


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ (four demo classes), runs/tiny (dho), runs/tiny/export (fp32 and fp16), runs/tiny/bench."""
    from dhox import export

    root = tmp_path_factory.mktemp("line")
    write_data(root / "data")
    run = root / "runs/tiny"
    dhox.distill(  # type: ignore[operator]
        root / "data", run, teacher=TEACHER, student="test_resnet", student_weights="none", image_size=28, shots=8,
        epochs=8, batch_labelled=16, batch_unlabelled=32, learning_rate=3e-3, views=2, device="cpu",
    )  # fmt: skip
    export(run, run / "export", fp16=True)
    dhox.bench(run / "export", out=run / "bench/here", device="cpu", duration=0.1, energy=0, streams="2")
    return root


@pytest.fixture
def own_line(line: Path, tmp_path: Path) -> Path:
    """A copy of `line` that a test may change."""
    shutil.copytree(line, tmp_path / "line")
    return tmp_path / "line"


def write_data(root: Path) -> None:
    """Real images of CLASSES as an image folder."""
    with np.load(DEMO / "fashion_mnist.npz") as archive:
        names = archive["classes"].tolist()
        for split, count in PER_CLASS.items():
            images, labels = archive[f"{split}_images"], archive[f"{split}_labels"]
            for name in CLASSES:
                folder = root / split / name
                folder.mkdir(parents=True)
                for number, pixels in enumerate(images[labels == names.index(name)][:count]):
                    Image.fromarray(pixels).save(folder / f"{number:03d}.png")
