from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from plain_files import read_json, write_json

from dhox.artefacts.predictions import read_predictions
from dhox.distill.auditing.audit import audit
from dhox.distill.small_options import AuditOptions
from dhox.options.declare import build
from dhox.reports.pages.audit import write_audit_page

TEACHER = f"local-dir:{Path(__file__).parents[2] / 'src/dhox/demo/teacher'}"


@pytest.fixture
def audited(line: Path) -> Path:
    shutil.copytree(line / "data", "data")
    options = build(AuditOptions, teacher=TEACHER, template=["a {}", "the {}"], shots=8, device="cpu")
    audit(Path("data"), Path("a"), options)
    return Path("a")


def test_the_page_has_its_sections_and_pictures_and_nothing_from_outside(audited: Path) -> None:
    page = write_audit_page(audited).read_text(encoding="utf-8")
    for heading in (
        "What there is to beat",
        "Templates",
        "Classes",
        "Confusable classes",
        "Copies of",
        "Images unlike",
    ):
        assert f">{heading}" in page, heading
    assert page.count("data:image/jpeg;base64,") > 20
    assert "prefers-color-scheme: dark" in page
    assert not re.findall(r"<(?:script|link|iframe|object)\b", page)
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)", page)
    assert not re.findall(r"url\(|@import", page)


def test_it_begins_with_the_teachers_accuracy_and_its_doubts(audited: Path) -> None:
    page = write_audit_page(audited).read_text(encoding="utf-8")
    content = read_json(audited / "audit.json")
    (answers,) = read_predictions(audited / "predictions.csv").values()
    first = content["ways"][0]
    assert len(answers) == first["n"] == 80
    assert sum(answer.label == answer.predicted for answer in answers.values()) == first["correct"]
    start = page[page.index('<div class="verdict">') : page.index("<section")]
    assert f"Distilling: {content['verdict']}; the teacher answers {100 * first['accuracy']:.1f} % (" in start
    assert "of 80 validation images rightly." in start
    assert len(re.findall("<dt>", start)) == 3
    right = {name: answer.probability for name, answer in answers.items() if answer.label == answer.predicted}
    part = page[page.index("<h2>Least confident right answers") :]
    assert re.findall(r"<small>(.*?)</small>", part)[0].replace("<wbr>", "") == min(right, key=lambda name: right[name])
    assert part.index("<h2>What there is to beat") > part.index("<h2>Images unlike any class")


def test_an_audit_without_its_answers_still_has_a_page(audited: Path) -> None:
    (audited / "predictions.csv").unlink()
    page = write_audit_page(audited).read_text(encoding="utf-8")
    assert "Most confident mistakes" not in page
    assert "data:image/jpeg;base64," in page


def test_names_are_escaped_and_lost_images_leave_a_gap(audited: Path) -> None:
    content = read_json(audited / "audit.json")
    content["advice"].append("<script>alert(1)</script>")
    write_json(audited / "audit.json", content)
    shutil.rmtree("data/test")
    for path in Path("data/train/bag").iterdir():
        path.write_bytes(b"gone")
    page = write_audit_page(audited).read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "data:image/jpeg;base64," in page
