"""docs/reference.md says what the commands say; every --help ends with examples that the commands take."""

from __future__ import annotations

import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from dhox.cli.main import app

ROOT = Path(__file__).parents[1]
COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]


def test_the_reference_is_the_command_tree() -> None:
    script = runpy.run_path(str(ROOT / "scripts/write_reference.py"))
    written = (ROOT / "docs/reference.md").read_text(encoding="utf-8")
    assert written == script["reference"](), "run scripts/write_reference.py"


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if not command.hidden])
def test_examples_are_lines_that_the_command_takes(name: str) -> None:
    lines = [line.strip().replace("\\[", "[") for line in COMMANDS[name].epilog.split("\n\n")[1:]]
    assert 1 <= len(lines) <= 3
    for line in lines:
        program, command, *words = shlex.split(line)
        assert (program, command) == ("dhox", name)
        assert len(line) <= 78
        for file in (word for word in words if word.endswith(".toml")):
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).write_text("epochs = 3\n")
        COMMANDS[name].make_context(name, words).close()
