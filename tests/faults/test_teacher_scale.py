"""A teacher whose logit scale is wrong: distill and audit say so."""

from __future__ import annotations

from pathlib import Path

import pytest
from plain_files import read_json
from quick_distill import DEMO_TEACHER, quick

from dhox.cli.main import main


@pytest.mark.parametrize(("scale", "warned"), [(None, False), (0.5, True)])
def test_distill_says_how_sure_its_teacher_is(
    line: Path, capsys: pytest.CaptureFixture[str], scale: float | None, warned: bool
) -> None:
    quick(line / "data", shots=4, epochs=1, teacher_scale=scale)
    assert ("too unsure" in capsys.readouterr().out) == warned
    run = read_json(next(Path().rglob("run.json")))
    assert run["teacher"]["calibration"]["n"] == 80
    assert any("too unsure" in note for note in run["notes"]) == warned


def test_without_validation_the_labelled_images_tell(line: Path) -> None:
    zero_shot, probed = (
        quick(line / "data", adapter, shots=4, tune_on="none", adapter=adapter) for adapter in ("none", "probe")
    )
    assert zero_shot.summary.teacher.calibration.images == "labelled"
    assert probed.summary.teacher.calibration is None  # it learnt from them


def test_audit_says_how_sure_its_teacher_is(line: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["audit", str(line / "data"), "--teacher", DEMO_TEACHER, "--out", "a", "--device", "cpu"])
    assert end.value.code == 0
    audit = read_json(Path("a/audit.json"))
    zero_shot = audit["ways"][0]
    assert audit["teacher"]["calibration"]["correct"] == zero_shot["correct"]
    assert "top probability" in " ".join(capsys.readouterr().out.split())
