from __future__ import annotations

from pathlib import Path

import pytest
from refusals import refuses

from dhox.distill.teachers.templates import template_list
from dhox.errors import UsageError

CHECK, READ = (f"distill.teachers.templates.{name}" for name in ("check_template", "template_list"))


def test_the_ensembles_are_open_clips() -> None:
    assert len(template_list("simple", [])) == 7
    assert template_list(None, []) == template_list("simple", [])
    imagenet = template_list("imagenet", [])
    assert len(imagenet) == len(set(imagenet)) == 80
    assert all(text.format("dog") != text.format("cat") for text in imagenet)
    assert "a bad photo of a {}." in imagenet


def test_a_file_has_one_template_per_line(tmp_path: Path) -> None:
    path = tmp_path / "templates.txt"
    path.write_text("\ufeffa photo of a {}.\n\n  a drawing of a {}. \na photo of a {}.\n", encoding="utf-8")
    assert template_list(str(path), []) == ["a photo of a {}.", "a drawing of a {}."]


def test_single_templates_stand_alone() -> None:
    assert template_list(None, ["a {}", "the {}", "a {}"]) == ["a {}", "the {}"]


@pytest.mark.parametrize("content", ["a photo", "a {} of {x}", "{1}", "a {"])
def test_templates_without_their_place_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "t").write_text(content)
    with refuses(tmp_path / "t", repr(content), at=CHECK, fix="{}", kind=UsageError):
        template_list(str(tmp_path / "t"), [])
    with refuses("--template", repr(content), at=CHECK, fix="{}", kind=UsageError):
        template_list(None, [content])


def test_wrong_files_and_contradictions(tmp_path: Path) -> None:
    with refuses("--templates", "--template", at=READ, kind=UsageError):
        template_list("simple", ["a {}"])
    with refuses("--templates openai", "simple", "imagenet", at=READ, kind=UsageError):
        template_list("openai", [])
    (tmp_path / "empty").write_text("\n \n")
    with refuses("empty", at=READ, fix="a photo of a {}"):
        template_list(str(tmp_path / "empty"), [])
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00a")
    with refuses("binary", at=READ, fix="UTF-8"):
        template_list(str(tmp_path / "binary"), [])
