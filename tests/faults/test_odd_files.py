"""What stands where a file should: pipes, devices, texts without end. One message, at once, never a hang."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from quick_distill import DEMO_TEACHER

from dhox.cli.main import main

Said = Callable[..., tuple[int, str]]

SECONDS = 120  # a hang, not a slow machine


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Iterator[Said]:
    """Exit code and output of a dhox command; a hang is an error."""

    def hang(number: int, frame: object) -> None:
        raise TimeoutError(f"no answer within {SECONDS} s")

    def run(*arguments: str | Path) -> tuple[int, str]:
        signal.alarm(SECONDS)
        with pytest.raises(SystemExit) as end:
            main([*map(str, arguments)])
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out + printed.err

    before = signal.signal(signal.SIGALRM, hang)
    yield run
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def put(path: Path, kind: str) -> None:
    """A pipe, or a link to an endless device, in the place of a file."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("report RUN", "run.json"), ("report RUN", "selection.json"), ("report RUN", "val.npz"),
        ("report RUN", "metrics.csv"), ("verify RUN/export", "manifest.json"), ("verify RUN/export", "golden.npz"),
        ("bench RUN/export --device cpu", "model.onnx"), ("export RUN --overwrite", "student.safetensors"),
        ("report RUN/bench/here", "bench.json"),
    ],
)  # fmt: skip
def test_only_regular_files_are_read(own_line: Path, said: Said, kind: str, command: str, file: str) -> None:
    run = own_line / "runs/tiny"
    folder = {"manifest.json": "export", "golden.npz": "export", "model.onnx": "export", "bench.json": "bench/here"}
    put(run / folder.get(file, ".") / file, kind)
    code, text = said(*command.replace("RUN", str(run)).split())
    assert code == (3 if file == "golden.npz" else 1), text  # one check of many that verify tells of
    assert file in text
    assert "Traceback" not in text


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("what", ["image", "class list", "manifest"])
def test_only_regular_files_of_data_are_read(own_line: Path, said: Said, kind: str, what: str) -> None:
    places = {
        "image": own_line / "data/train/bag/000.png",
        "class list": Path("classes.txt"),
        "manifest": Path("d.csv"),
    }
    put(places[what], kind)
    data = places[what] if what == "manifest" else own_line / "data"
    code, text = said(
        "audit", data, "--teacher", DEMO_TEACHER, *(["--classes", "classes.txt"] if what == "class list" else [])
    )
    assert code == 1, text
    assert places[what].name in text


def test_a_table_that_is_none_is_one_message(said: Said) -> None:
    Path("big.csv").write_text("a" * 200_000 + ",b\n")
    code, text = said("audit", "big.csv")
    assert code == 1, text
    assert "big.csv" in text
    assert "Traceback" not in text
