"""`dhox demo`: the three commands as a user would type them, on the embedded data, and one table at the end."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from rich.markup import escape

from dhox.artefacts.files import RUN_FILE, RUN_SCHEMA, check_output
from dhox.cli.common import say_report
from dhox.console import console, say
from dhox.demo.data import write_image_folder
from dhox.errors import DhoxError, dhox_command, require
from dhox.reports.pages.run import line_section, read_line, write_report
from dhox.reports.terminal import show_section

# Fixed on validation before test was read; test_resnet is timm's smallest ResNet (0.47 million parameters).
RECIPE = {
    "student": "test_resnet", "student_weights": "none", "image_size": 28, "epochs": 30, "learning_rate": 3e-3,
    "batch_labelled": 64, "batch_unlabelled": 192, "adapter": "none",
}  # fmt: skip

GRACE_S = 5  # Ctrl-C in a terminal reaches the command too, which then ends by itself


def run_demo(data: Path, out: Path, shots: int, overwrite: bool) -> None:
    """Write the data, run distill, export, bench and the labels-only comparison, print the table, write the report."""
    require("torch", "export")
    start = time.perf_counter()
    labels_only = out.with_name(f"{out.name}-labels-only")
    for directory in (out, labels_only):
        check_output(directory, RUN_FILE, RUN_SCHEMA, overwrite)
    written = write_image_folder(data)
    say(
        f"{data}: 6,000 train, 1,000 val and 3,000 test images, and the teacher"
        + ("" if written else " (already there)")
    )
    again = ["--overwrite"] if overwrite else []
    recipe = [word for name, value in RECIPE.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    common = [str(data), *recipe, "--shots", str(shots)]
    _run_command("distill", *common, "--teacher", f"local-dir:{data / 'teacher'}", "--out", str(out), *again)
    _run_command("export", str(out), "--fold-heads", "--fp16")
    _run_command("bench", str(out / "export"), "--device", "auto", "--duration", "0.5", "--energy", "0")
    say("For comparison, the same student and the same number of steps with the labels only:")
    _run_command("distill", *common, "--method", "ce", "--out", str(labels_only), *again)

    from dhox.demo.costs import stage_costs

    costs = stage_costs(out, labels_only)
    show_section(line_section(read_line(out, costs, labels_only)))
    say_report(out, write=lambda folder: write_report(folder, costs, labels_only))
    say(f"{time.perf_counter() - start:.0f} s in all.")
    say(f"Try: {dhox_command('predict', out / 'export', data / 'test/bag')}/*.png")


def _run_command(*arguments: str) -> None:
    """Print and run `dhox ARGUMENTS` in a process of its own. Raises DhoxError where it fails."""
    console.print(f"\n[bold]$ {escape(dhox_command(*arguments))}[/bold]", soft_wrap=True)
    with subprocess.Popen([sys.executable, "-m", "dhox", *arguments]) as process:
        try:
            process.wait()
        except KeyboardInterrupt:
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
            process.terminate()
            process.wait()
            raise
    if process.returncode != 0:
        failed = DhoxError(f"dhox {arguments[0]} failed.", "Its message above says what to do.")
        failed.exit_code = process.returncode
        raise failed
