"""Sizes that a student does not take: one message with sizes that fit, before any image is read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from quick_distill import quick
from refusals import refuses

from dhox.distill.students.image_size import check_image_size, size_problem

AT = "distill.students.image_size.check_image_size"


@pytest.mark.parametrize(("student", "size"), [("test_vit", 30), ("levit_128s", 100)])
def test_sizes_that_fit_are_named(student: str, size: int) -> None:
    with refuses(student, size, at=AT) as caught:
        check_image_size(student, size)
    fits = [int(found) for found in re.findall(r"--image-size (\d+)", str(caught.value))]
    assert fits
    assert all(size_problem(student, one) is None for one in fits)


@pytest.mark.parametrize(("student", "size"), [("test_vit", 32), ("test_resnet", 28), ("resnet10t", 33)])
def test_sizes_that_a_student_takes_pass(student: str, size: int) -> None:
    check_image_size(student, size)


def test_it_is_said_before_data_is_read(tmp_path: Path) -> None:
    with refuses("test_vit", 30, at=AT, fix="--image-size"):
        quick(tmp_path / "nowhere", student="test_vit", image_size=30)
