from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from plain_files import read_json, write_json

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
