from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dhox import __version__
from dhox.cli.main import main
from dhox.console import console

CONSOLE_SCRIPT = Path(sys.executable).with_name("dhox")


def run(*arguments: str, code: int = 0) -> str:
    done = subprocess.run([CONSOLE_SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def fails(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert end.value.code == code
    return capsys.readouterr().err


def test_the_console_script_knows_its_commands_and_version() -> None:
    text = run("--help")
    for command in (
        "audit",
        "distill",
        "retune",
        "import-dho",
        "cache",
        "export",
        "bench",
        "predict",
        "doctor",
        "demo",
    ):
        assert command in text
    assert run("--version").split() == ["dhox", __version__]


def test_the_three_commands_as_the_user_wrote_them(own_line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own_line)
    shutil.rmtree(own_line / "runs/tiny/export")
    text = run("export", "--fold-heads", "--fp16")
    assert "Using the newest run: runs/tiny" in text
    assert "Fold: exact" in text
    assert "Next: dhox bench runs/tiny/export" in text
    text = run("bench", "--device", "jetson", code=1)
    assert "Using the newest export: runs/tiny/export" in text
    assert "Error: --device jetson: this machine is not a Jetson" in text
    assert "Traceback" not in text
    text = run("bench", "--duration", "0.05", "--energy", "0", "--batch", "1")
    assert "passed" in text
    assert "bench.json" in text
    assert len(list((own_line / "runs/tiny/bench").glob("*/report.html"))) == 1


def test_distill_from_the_command_line(line: Path) -> None:
    teacher = Path(__file__).parents[1] / "src/dhox/demo/teacher"
    text = run(
        "distill", str(line / "data"), "--teacher", f"local-dir:{teacher}", "--student", "test_resnet", "--student-weights",
        "none", "--image-size", "28", "--epochs", "1", "--shots", "4", "--template", "a photo of a {}.", "--out", "runs/cli",
    )  # fmt: skip
    text = " ".join(text.split())  # lines break where the terminal ends
    for counted in ("16 labelled", "80 unlabelled", "80 validation", "48 test", "4 classes"):
        assert counted in text
    assert "80 labels" in text
    assert "KD head" in text
    assert Path("runs/cli/report.html").exists()


def test_audit_and_retune_from_the_command_line(own_line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own_line)
    teacher = Path(__file__).parents[1] / "src/dhox/demo/teacher"
    text = run("audit", "data", "--teacher", f"local-dir:{teacher}", "--shots", "8", "--device", "cpu")
    assert "linear probe" in text
    assert "On 80 images of the val split" in text
    assert "Next: dhox distill data --shots 8" in text
    assert Path("audits/data/audit.html").exists()
    before = Path("runs/tiny/report.html").stat().st_mtime_ns if Path("runs/tiny/report.html").exists() else 0
    text = run("retune", "runs/tiny", "--alpha", "0.7", "--beta", "1.5")
    assert "alpha, beta: (0.7, 1.5), given" in text
    assert "alpha, beta before: (" in text
    assert "KD head" in text
    assert Path("runs/tiny/report.html").stat().st_mtime_ns > before
    assert "chosen with 80 labels of the val split" in run("retune", "runs/tiny")


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (
            2,
            ["distill"],
            "DATA is an image folder",
        ),
        (2, ["distill"], "dhox demo"),
        (2, ["distill", "x", "--shots", "1", "--label-fraction", "0.5"], "--shots and --label-fraction"),
        (2, ["distill", "x", "--kd-head", "cosine"], "'linear', 'cosine-paper', 'cosine-code'"),
        (2, ["distill", "x", "--init-heads", "words"], "'random', 'text'"),
        (2, ["import-dho", "x.pt"], "Missing option"),
        (
            1,
            ["import-dho", "x.pt", "--arch", "ViT-B-16", "--classes", "imagenet"],
            "x.pt",
        ),
        (2, ["distill", "x", "--method", "foo"], "--method foo"),
        (2, ["distill", "x", "--template", "a photo"], "--template 'a photo'"),
        (2, ["distill", "x", "--label-fraction", "0"], "--label-fraction"),
        (2, ["distill", "x", "--epochs", "0"], "--epochs"),
        (2, ["distill", "x", "--template", "a {} of {}"], "--template 'a {} of {}'"),
        (2, ["distill", "x", "--template", "a {}", "--templates", "simple"], "--templates and --template"),
        (2, ["distill", "x", "--templates", "foo"], "--templates foo"),
        (2, ["audit"], "Missing argument"),
        (1, ["audit", "missing"], "missing"),
        (2, ["retune", "x", "--alpha", "0.5"], "--alpha and --beta"),
        (2, ["retune", "x", "--alpha", "1.5", "--beta", "1"], "--alpha"),
        (2, ["retune", "x", "--metric", "f1"], "--metric"),
        (1, ["retune", "."], "is not a run directory"),
        (2, ["distill", "x", "--method", "kd", "--shots", "2"], "--method kd"),
        (
            2,
            ["distill", "x", "--method", "kd", "--tune-on", "held-out"],
            "--tune-on held-out",
        ),
        (
            2,
            ["distill", "x", "--label-sampler", "few-shot-reference"],
            "--shots",
        ),
        (2, ["distill", "x", "--label-sampler", "percent-reference", "--shots", "1"], "--label-fraction"),
        (2, ["distill", "x", "--label-sampler", "mine"], "'dhox', 'few-shot-reference', 'percent-reference'"),
        (2, ["distill", "x", "--tune-on", "test"], "'val', 'held-out', 'none'"),
        (2, ["export", "x", "--keep-heads", "--fold-rule", "linear"], "--keep-heads folds nothing"),
        (1, ["export", "."], "is not a run directory"),
        (1, ["bench", "."], "is not an export directory"),
        (2, ["export"], "There is no run below"),
        (2, ["bench"], "There is no export below"),
        (2, ["export", "x", "--fold-rule", "best"], "'auto', 'linear', 'exact'"),
        (2, ["bench", "--device", "gpu"], "'cpu', 'cuda', 'tensorrt', 'jetson'"),
        (2, ["nonsense"], "No such command"),
        (1, ["distill", "missing"], "missing"),
        (1, ["export", "missing"], "missing is not a run directory"),
        (1, ["bench", "missing"], "missing does not exist"),
        (1, ["report", "."], "neither a run nor"),
        (1, ["predict", "missing", "x.png"], "missing is not an export directory"),
    ],
)
def test_user_errors_are_one_message_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], code: int, arguments: list[str], message: str
) -> None:
    error = fails(capsys, code, *arguments)
    assert message in " ".join(error.replace("│", " ").split())
    assert "Traceback" not in error
    assert not list(Path().iterdir())


def test_extras_in_square_brackets_survive_rich(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    Path("data").mkdir()
    error = fails(capsys, 1, "distill", "data")
    assert "Install it with: pip install 'dhox[distill]'" in error


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("dhox.doctor.examine.examine", broken)
    with pytest.raises(ZeroDivisionError):
        main(["doctor"])


def test_doctor_says_what_is_missing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr(console, "width", 200)
    with pytest.raises(SystemExit):
        main(["doctor"])
    text = capsys.readouterr().out
    assert "CPUExecutionProvider" in text
    assert "no NVIDIA Tegra" in text
    assert "pip install 'dhox[distill]'" in text
