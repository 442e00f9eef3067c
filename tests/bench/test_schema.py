from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from bench_example import example

import dhox.bench

SCHEMA = json.loads((Path(dhox.bench.__file__).parent / "bench.schema.json").read_text(encoding="utf-8"))
CHECK = jsonschema.Draft202012Validator(SCHEMA)


def closed_objects(schema: Any) -> list[dict[str, Any]]:
    if isinstance(schema, list):
        return [found for entry in schema for found in closed_objects(entry)]
    if not isinstance(schema, dict):
        return []
    inner = [found for entry in schema.values() for found in closed_objects(entry)]
    return [schema, *inner] if schema.get("additionalProperties") is False else inner


def test_the_schema_is_one_and_every_closed_object_names_its_fields() -> None:
    CHECK.check_schema(SCHEMA)
    for schema in closed_objects(SCHEMA):
        assert set(schema["required"]) <= set(schema["properties"])


@pytest.mark.parametrize("kind", ["cpu", "cuda", "jetson"])
def test_examples_are_valid(tmp_path: Path, kind: str) -> None:
    CHECK.validate(example(tmp_path / kind, kind))


def test_every_bench_of_the_suite_is_valid(line: Path) -> None:
    found = list(line.glob("runs/*/bench/*/bench.json"))
    assert found
    for path in found:
        CHECK.validate(json.loads(path.read_text(encoding="utf-8")))


def set_in(*places: Any, value: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for place in places[:-1]:
            content = content[place]
        content[places[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        set_in("schema", value="dhox.bench/1"),
        set_in("status", value="running"),
        set_in("more", value=1),
        set_in("latency", 0, "latency_ms", "p50", value=0),
        set_in("latency", 0, "latency_ms", "p50", value=None),
        set_in("latency", 0, "scope", value="host"),
        set_in("latency", 0, "batch", value=0),
        set_in("latency", 0, "p50_interval", value=[1.0]),
        set_in("latency", 0, "seconds", value=2.0),
        set_in("comparisons", 0, "verdict", value="better"),
        set_in("comparisons", 0, "reference", value=["fp32"]),
        set_in("accuracy", "rows", 0, "accuracy", value=79.1),
        set_in("energy", "rows", 0, "rails_w", "VDD_CPU_CV", value="5 W"),
        set_in("subjects", 0, "sha256", value="abc"),
        set_in("conditions", "gpu_clock_mhz", "median", value=None),
        lambda content: content["latency"][0].pop("drift"),
        lambda content: content["energy"].pop("note"),
        lambda content: content.pop("not_run"),
    ],
)
def test_a_changed_file_is_not(tmp_path: Path, change: Callable[[Any], None]) -> None:
    content = example(tmp_path, "jetson", subjects=("fp32", "fp16"), batches=(1,))
    CHECK.validate(content)
    changed = copy.deepcopy(content)
    change(changed)
    assert not CHECK.is_valid(changed)


def test_what_was_not_measured_is_null_and_an_interrupted_bench_is_valid(tmp_path: Path) -> None:
    content = example(tmp_path, "cpu", batches=(1,))
    CHECK.validate(
        content
        | {
            "status": "interrupted", "latency": [], "comparisons": [], "streams": [], "conditions": None, "golden": [],
            "accuracy": content["accuracy"] | {"rows": [], "note": "not run: interrupted"},
            "ledgers": [{"export": "e", "images": None, "note": "not run: interrupted", "rows": []}],
        }
    )  # fmt: skip
