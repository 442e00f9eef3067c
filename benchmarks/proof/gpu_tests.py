"""Do the tests marked gpu pass, all of them?"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from proof.record import Aim, Row

ROOT = Path(__file__).parents[2]
BAD = ("failure", "error")


def rows(tiny: bool) -> Iterator[Row]:
    """Tests that passed, failed and were skipped. A rehearsal runs them too, and sees each of them skipped."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-m", "gpu", f"--junitxml={report}", "-p", "no:cacheprovider"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if not report.exists():
            raise RuntimeError(f"pytest wrote no report: {(done.stdout + done.stderr).strip()[-500:]}")
        cases = list(ElementTree.parse(report).iter("testcase"))
    bad, skipped = ([c for c in cases if any(c.find(tag) is not None for tag in tags)] for tags in (BAD, ("skipped",)))
    passed, some, none = len(cases) - len(bad) - len(skipped), Aim("at least", 1), Aim("at most", 0)
    counts = (("passed", passed, some, []), ("failed", len(bad), none, bad), ("skipped", len(skipped), none, skipped))
    for what, value, aim, which in counts:
        yield Row(
            subject="pytest -m gpu", what=what, value=value, aim=None if tiny else aim,
            note="" if tiny else names(which),
        )  # fmt: skip


def names(cases: list[ElementTree.Element]) -> str:
    """The tests, and what the first line of each says."""
    parts = []
    for case in cases:
        said = next((tag.get("message", "") for tag in case if tag.tag in {*BAD, "skipped"}), "")
        first = (said.splitlines() or [""])[0].replace("|", "/")[:120]
        parts.append(f"{case.get('name')}: {first}")
    return "; ".join(parts)
