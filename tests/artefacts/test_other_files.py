"""comparison.json, audit.json and shards.json: read back as written, refused where damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from damage import every_field_is_checked

from dhox.artefacts.audit import (
    Audit,
    AuditSets,
    AuditTeacher,
    ClassRow,
    Confusion,
    CopiesOf,
    JudgesSummary,
    NearCopies,
    NearPair,
    TemplateRow,
    TextPair,
    Unlike,
    UnlikeImage,
    WayRow,
)
from dhox.artefacts.common import Accuracy, class_entries
from dhox.artefacts.comparison import Comparison, ComparisonRow, MeanInterval
from dhox.artefacts.files import AUDIT_SCHEMA, COMPARISON_SCHEMA
from dhox.artefacts.record import Kind, read_record, schema_of, write_record
from dhox.artefacts.shards import SHARDS_FILE, Shards

WHEN, RIGHT = "2026-01-01T00:00:00.000000+00:00", np.array([True, False, True])

COMPARISON = Comparison(
    finished_at=WHEN, methods=["dho", "ce"], seeds=2, data="/data", first_seed=0, first_split_seed=1, n_test=48,
    rows=[
        ComparisonRow(0.5, (0.25, 0.75), "ce", "student", [0.25, 0.75], MeanInterval(-0.25, None)),
        ComparisonRow(0.75, None, "dho", "dho", [0.5, 1.0]),
    ],
    environment={"dhox": "0"},
)  # fmt: skip

COPIES = CopiesOf(n=3, exact=1, near=None, pairs=[NearPair(image="a", training_image="b", cosine=0.5)])
AUDIT = Audit(
    finished_at=WHEN, data="/data", classes=class_entries([("a", "a"), ("b", "b")]),
    teacher=AuditTeacher(name="ViT", scale=100.0, logit_bias=None, templates=["a {}"], parameters=9),
    sets=AuditSets(labelled=1, unlabelled=2, validation=3, test=4, shots=None, split_seed=0),
    judges=JudgesSummary(n=3, cross_validated=False, words="3 images"),
    ways=[WayRow.of(RIGHT, way="zero-shot", model="ViT", parameters=9, difference=0.0, lower_bound=-1.0)],
    verdict="cannot tell", advice=["Label more."], templates=[TemplateRow.of(RIGHT, template="a {}")],
    per_class=[ClassRow.of(RIGHT, class_="a", probe=Accuracy.of(RIGHT), taken_for="b", times=1)],
    confusions=[
        Confusion(
            classes=("a", "b"), first_taken_for_second=1, second_taken_for_first=0, n=3, text_cosine=0.5, examples=["x"]
        )
    ],
    closest_texts=[TextPair(("a", "b"), 0.5)],
    near_copies=NearCopies(
        threshold=0.9, calibrated_on=3, recognised=0.5, control=0.0, validation=COPIES, test=COPIES
    ),
    unlike=Unlike(of="unlabelled", n=2, below=0.5, images=[UnlikeImage(image="x", place=0.5, nearest_class=1)]),
    skipped=[], notes=[], environment={"dhox": "0"},
)  # fmt: skip

SHARDS = Shards(
    about={"teacher": "ViT"}, recipe={"rows": "numbers", "pixels": [28, "bicubic", [0.5, 0.5]], "views": 8},
    row_shape=[8, 64], dtype="float16", files={"a.safetensors": 3},
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "record", "fields"),
    [("comparison.json", COMPARISON, 15), ("audit.json", AUDIT, 70), (SHARDS_FILE, SHARDS, 5)],
)
def test_a_file_is_read_back_as_written_and_every_field_is_checked(
    tmp_path: Path, name: str, record: Kind, fields: int
) -> None:
    path = tmp_path / name
    write_record(path, record)
    assert read_record(path, type(record)) == record
    assert every_field_is_checked(path, record, lambda: read_record(path, type(record))) >= fields


def test_a_folder_is_known_by_the_schema_of_its_type() -> None:
    assert (schema_of(Comparison), schema_of(Audit)) == (COMPARISON_SCHEMA, AUDIT_SCHEMA)
