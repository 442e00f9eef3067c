from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from refusals import named, refuses

from dhox import __version__
from dhox.cli.common import use_no_network_that_is_not_there
from dhox.cli.main import main
from dhox.console import console
from dhox.errors import DhoxError, UsageError

CONSOLE_SCRIPT = Path(sys.executable).with_name("dhox")


def run(*arguments: str, code: int = 0) -> str:
    done = subprocess.run([CONSOLE_SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


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
    assert "Error: --device jetson" in text
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
    assert "Loading the models ..." in text
    assert Path("runs/cli/report.html").exists()


def test_audit_and_retune_from_the_command_line(own_line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own_line)
    teacher = Path(__file__).parents[1] / "src/dhox/demo/teacher"
    text = run("audit", "data", "--teacher", f"local-dir:{teacher}", "--shots", "8", "--device", "cpu")
    assert "linear probe" in text
    assert "On 80 images of the val split" in text
    assert f"Next: dhox distill data --teacher=local-dir:{teacher} --shots=8" in text
    assert Path("audits/data/audit.html").exists()
    before = Path("runs/tiny/report.html").stat().st_mtime_ns if Path("runs/tiny/report.html").exists() else 0
    text = run("retune", "runs/tiny", "--alpha", "0.7", "--beta", "1.5")
    assert "alpha, beta: (0.7, 1.5), given" in text
    assert "alpha, beta before: (" in text
    assert "KD head" in text
    assert Path("runs/tiny/report.html").stat().st_mtime_ns > before
    assert "chosen with 80 labels of the val split" in run("retune", "runs/tiny")


@pytest.mark.parametrize(
    ("code", "words", "at", "facts", "fix"),
    [
        (2, "distill", "cli.distill.distill", ["DATA"], ("train/CLASS/*", "dhox demo")),
        (2, "distill x --shots 1 --label-fraction 0.5", "distill.options", ["--shots", "--label-fraction"], ()),
        (1, "import-dho x.pt --arch ViT-B-16 --classes imagenet", "distill.students", ["x.pt", "No such file"], ()),
        (2, "distill x --method foo", "distill.options", ["--method foo"], "dho, sho, ce, kd"),
        (2, "distill x --template 'a photo'", "distill.teachers.templates", ["--template 'a photo'"], "{}"),
        (2, "distill x --label-fraction 0", "distill.options", ["--label-fraction 0"], "--method kd"),
        (2, "distill x --template 'a {} of {}'", "distill.teachers.templates", ["--template 'a {} of {}'"], "{}"),
        (2, "distill x --template {} --templates simple", "distill.options", ["--templates", "--template"], ()),
        (2, "distill x --templates foo", "distill.teachers.templates", ["--templates foo", "simple", "imagenet"], ()),
        (2, "audit missing", "data.dataset.check_exists", ["missing", "exist"], "train/CLASS/*"),
        (2, "retune x --alpha 0.5", "distill.small_options", ["--alpha", "--beta"], ()),
        (1, "retune .", "artefacts.run.read_run", ["run.json"], "dhox distill"),
        (2, "distill x --method kd --shots 2", "distill.options", ["--method kd"], "--shots"),
        (2, "distill x --method kd --tune-on held-out", "distill.options", ["--method kd"], "--tune-on held-out"),
        (2, "distill x --label-sampler few-shot-reference", "distill.options", ["few-shot-reference"], "--shots"),
        (
            2,
            "distill x --label-sampler percent-reference --shots 1",
            "distill.options",
            ["percent-reference"],
            "--label-fraction",
        ),
        (2, "export x --keep-heads --fold-rule linear", "export.options", ["--keep-heads", "--fold-rule"], ()),
        (1, "export .", "artefacts.run.read_run", ["run.json"], "dhox distill"),
        (1, "bench .", "models.export_directory.open_export", ["manifest.json"], "dhox export RUN"),
        (2, "export", "cli.common.find_newest", ["run"], "dhox distill DATA"),
        (2, "bench", "cli.common.find_newest", ["export"], "dhox export RUN"),
        (2, "distill missing", "data.dataset.check_exists", ["missing", "exist"], "train/CLASS/*"),
        (2, "export missing", "artefacts.run.read_run", ["missing", "exist"], "dhox distill"),
        (2, "bench missing", "bench.bench_models.open_models", ["missing"], ()),
        (1, "report .", "reports.pages.run.write_report", [], ("run.json", "bench.json")),
        (
            2,
            "predict missing x.png",
            "models.export_directory.open_export",
            ["missing", "exist"],
            "dhox export RUN",
        ),
        (2, "report missing", "reports.pages.run.write_report", ["missing", "exist"], "run.json"),
        (2, "compare missing missing", "bench.compare", ["missing", "exist"], "bench.json"),
        (2, "verify missing", "models.export_directory.open_export", ["missing", "exist"], "dhox export RUN"),
        (2, "export x --data missing", "data.dataset.check_exists", ["missing", "exist"], "train/CLASS/*"),
        (2, "distill --recipe missing.toml", "options.recipe", ["missing.toml", "exist"], ()),
    ],
)
def test_user_errors_are_one_message_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], code: int, words: str, at: str, facts: list, fix: str
) -> None:
    with refuses(*facts, at=at, fix=fix, kind={1: DhoxError, 2: UsageError}[code]) as caught:
        main(shlex.split(words))
    assert capsys.readouterr().err == f"Error: {caught.value.__context__}\n"
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("words", "kind", "facts"),
    [
        ("distill x --kd-head cosine", "BadParameter", ["--kd-head", "'linear', 'cosine-paper', 'cosine-code'"]),
        ("distill x --init-heads words", "BadParameter", ["--init-heads", "'random', 'text', 'text-code'"]),
        ("distill x --epochs 0", "BadParameter", ["--epochs", 1]),
        ("distill x --label-sampler mine", "BadParameter", ["'dhox', 'few-shot-reference', 'percent-reference'"]),
        ("distill x --tune-on test", "BadParameter", ["--tune-on", "'val', 'held-out', 'none'"]),
        ("retune x --alpha 1.5 --beta 1", "BadParameter", ["--alpha", 1]),
        ("retune x --metric f1", "BadParameter", ["--metric", "'accuracy', 'balanced', 'macro-f1'"]),
        ("export x --fold-rule best", "BadParameter", ["--fold-rule", "'auto', 'linear', 'exact'"]),
        ("bench --device gpu", "BadParameter", ["--device", "'cpu', 'cuda', 'tensorrt', 'jetson'"]),
        ("import-dho x.pt", "MissingParameter", ["--arch"]),
        ("audit", "MissingParameter", ["data"]),
        ("nonsense", "UsageError", ["nonsense"]),
    ],
)
def test_words_that_no_command_takes_name_the_option(
    capsys: pytest.CaptureFixture[str], words: str, kind: str, facts: list
) -> None:
    with pytest.raises(SystemExit) as end:
        main(shlex.split(words))
    assert (end.value.code, type(end.value.__context__).__name__) == (2, kind)
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert all(named(fact, error) for fact in facts), error
    assert not list(Path().iterdir())


def test_extras_in_square_brackets_survive_rich(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    Path("data").mkdir()
    with refuses("torch", at="errors.require", fix="pip install 'dhox[distill]'"):
        main(["distill", "data"])
    assert "pip install 'dhox[distill]'" in capsys.readouterr().err


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


@pytest.mark.parametrize("command", ["distill", "audit", "cache"])
def test_data_that_is_not_there_is_told_before_torch_is_imported(command: str) -> None:
    code = f"import sys; sys.modules['torch'] = None; from dhox.cli.main import main; main(['{command}', 'nowhere'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nowhere does not exist" in done.stderr


@pytest.mark.parametrize(("host", "offline"), [("http://nobody.invalid", "1"), ("http://localhost", None)])
def test_a_model_hub_that_cannot_be_found_is_not_asked(
    host: str, offline: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_OFFLINE", "http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", host)
    use_no_network_that_is_not_there()
    assert os.environ.get("HF_HUB_OFFLINE") == offline
    os.environ.pop("HF_HUB_OFFLINE", None)
    monkeypatch.setenv("https_proxy", "http://nobody.invalid:3128")
    use_no_network_that_is_not_there()
    assert "HF_HUB_OFFLINE" not in os.environ


@pytest.mark.slow
def test_quiet_trains_without_a_word_of_progress(own_line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own_line)
    words = "distill data --shots 4 --student test_resnet.r160_in1k --student-weights none --image-size 32 --method ce"
    quiet = run(*words.split(), "--epochs", "1", "--out", "quiet", "--quiet")
    assert "Loading" not in quiet
    assert "Accuracy on test" in quiet
