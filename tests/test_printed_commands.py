"""Commands that dhox prints can be pasted into a shell, whatever the names of the paths in them."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
import shutil
from pathlib import Path

import pytest
from quick_distill import DEMO_TEACHER

from dhox.cli.main import main
from dhox.errors import DhoxError, dhox_command

ROOT = Path(__file__).parents[1]
NAMES = "audit|distill|cache|retune|import-dho|export|sweep|bench|serve|label|compare|report|predict|verify|doctor|demo"
ODD = "it's a line"


def next_words(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The words of the command that the one with these arguments says comes next."""
    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        main(list(arguments))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Next: ")]
    return shlex.split(line.removeprefix("Next: "))


def test_words_come_back_from_the_shell_as_they_were() -> None:
    words = ["predict", Path("a b/it's"), "--shots", 4, "$HOME;", "--x=1 2"]
    assert shlex.split(dhox_command(*words)) == ["dhox", *map(str, words)]


@pytest.mark.slow
def test_paths_with_blanks_and_quotes_can_be_pasted(
    own_line: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / ODD
    shutil.move(own_line, odd)
    run, export, again = odd / "runs/tiny", odd / "e", odd / "e-retuned"
    data, quick = odd / "data", ("--teacher", DEMO_TEACHER, "--device", "cpu", "--shots", "4")
    small = ("--student", "test_resnet", "--student-weights", "none", "--image-size", "28", "--epochs", "1")
    assert next_words(capsys, "audit", str(data), *quick, "--out", "a") == [
        "dhox", "distill", str(data), f"--teacher={DEMO_TEACHER}", "--shots=4", "--device=cpu"
    ]  # fmt: skip
    trained = next_words(capsys, "distill", str(data), *quick, *small, "--out", str(odd / "new"))
    assert trained[:3] == ["dhox", "export", str(odd / "new")]
    assert next_words(capsys, "export", str(run), "--out", str(export))[:3] == ["dhox", "bench", str(export)]
    retuned = ("--alpha", "0.5", "--beta", "1")
    assert next_words(capsys, "retune", str(run), *retuned)[:3] == ["dhox", "export", str(run)]
    assert next_words(capsys, "retune", str(export), *retuned)[:3] == ["dhox", "bench", str(again)]
    bench = ("--device", "cpu", "--duration", "0.05", "--energy", "0", "--batch", "1", "--out", str(odd / "b"))
    assert next_words(capsys, "bench", str(export), *bench)[:3] == ["dhox", "compare", str(odd / "b/bench.json")]


def test_the_command_that_repairs_a_cache_can_be_pasted(
    line: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / ODD
    shutil.copytree(line / "runs/cache", cache)
    next(cache.glob("*/*.safetensors")).write_bytes(b"x")
    with pytest.raises(SystemExit, match="1"):
        main(["cache", "--verify", str(cache)])
    (command,) = re.findall(r"`(dhox .*?)` drops", capsys.readouterr().err)
    assert shlex.split(command) == ["dhox", "cache", "--repair", str(cache)]
    with pytest.raises(SystemExit, match="0"):
        main(shlex.split(command)[1:])


def test_a_damaged_header_names_its_repair(line: Path, tmp_path: Path) -> None:
    from dhox.distill.images.shards import read_header

    cache = tmp_path / ODD
    shutil.copytree(next((line / "runs/cache").glob("*/shards.json")).parent, cache)
    (cache / "shards.json").write_text("{")
    with pytest.raises(DhoxError) as found:
        read_header(cache)
    (command,) = re.findall(r"`(dhox .*?)`", found.value.fix)
    assert shlex.split(command) == ["dhox", "cache", "--repair", str(cache)]


def test_no_message_writes_values_into_a_command_by_itself() -> None:
    """An f-string that holds `dhox COMMAND ... {value}` is one that `dhox_command` should have made."""
    wrong = []
    for folder in ("src/dhox", "distill", "export", "bench"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                parts = node.values if isinstance(node, ast.JoinedStr) else []
                for before, after in itertools.pairwise(parts):
                    text = before.value if isinstance(before, ast.Constant) else ""
                    if isinstance(after, ast.FormattedValue) and re.search(rf"\bdhox ({NAMES})\b[^`.,;():]*$", text):
                        wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert wrong == []
