"""MODEL_CARD.md: what the records say, in the form that hubs read."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import msgspec
import pytest
import yaml
from huggingface_hub import ModelCard

from dhox.artefacts.common import ClassEntry
from dhox.artefacts.manifest import Manifest
from dhox.artefacts.record import read_record
from dhox.artefacts.run_directory import open_run
from dhox.cli.main import main
from dhox.distill.teachers.model_config import license_of
from dhox.evidence.statistics import wilson_interval
from dhox.export.folding.fold import fold_probs
from dhox.export.model_card import card, judged_by_logits


@pytest.fixture
def written(line: Path) -> str:
    return (line / "runs/tiny/export/MODEL_CARD.md").read_text()


def test_a_hub_reads_its_head(line: Path, written: str) -> None:
    data = ModelCard(written).data.to_dict()
    assert data["pipeline_tag"] == "image-classification"
    (result,) = data["model-index"][0]["results"]
    source = open_run(line / "runs/tiny")
    right = fold_probs(source.test, read_record(line / "runs/tiny/export/manifest.json", Manifest).fold).argmax(-1)
    assert result["metrics"][0]["value"] == pytest.approx((right == source.test.labels).mean(), abs=1e-4)
    assert result["dataset"]["split"] == "test"
    assert result["dataset"]["name"] == "data"


def test_every_class_stands_with_its_interval(line: Path, written: str) -> None:
    source = open_run(line / "runs/tiny")
    manifest = read_record(line / "runs/tiny/export/manifest.json", Manifest)
    right = fold_probs(source.test, manifest.fold).argmax(-1) == source.test.labels
    for number, name in enumerate(manifest.names):
        of = right[source.test.labels == number]
        low, high = wilson_interval(int(of.sum()), len(of))
        assert f"| `{name}` | {len(of)} | {100 * of.mean():.1f} ({100 * low:.1f}-{100 * high:.1f}) |" in written
    for entry in manifest.artefacts:
        assert entry.sha256 in written


def test_no_path_of_the_machine_stands_in_it(line: Path, written: str) -> None:
    assert str(line) not in written
    assert "/home" not in written
    assert "/tmp" not in written
    assert "Its licence: apache-2.0" in written


def test_a_bench_adds_the_latency_and_its_own_accuracy(own_line: Path) -> None:
    run = own_line / "runs/tiny"
    shutil.rmtree(run / "bench")
    assert "not measured yet" in (run / "export/MODEL_CARD.md").read_text()
    with pytest.raises(SystemExit, match="^0$"):
        main(
            [
                "bench",
                str(run / "export"),
                "--out",
                str(run / "bench/x"),
                "--duration",
                "0.05",
                "--energy",
                "0",
                "--device",
                "cpu",
            ]
        )
    renewed = (run / "export/MODEL_CARD.md").read_text()
    assert re.search(r"- fp32 by onnxruntime: \d+\.\d{3} ms", renewed)
    assert "by onnxruntime" in renewed[: renewed.index("## Files")]
    with pytest.raises(SystemExit, match="^0$"):
        main(["verify", str(run / "export")])


def test_hostile_names_stay_names(line: Path) -> None:
    manifest = read_record(line / "runs/tiny/export/manifest.json", Manifest)
    source = open_run(line / "runs/tiny")
    names = ["a|b", "`c`", "<script>x</script>", "- d\n# e"]
    classes = [ClassEntry(i, name, name) for i, name in enumerate(names)]
    hostile = msgspec.structs.replace(manifest, classes=classes)
    text = card(hostile, None, judged_by_logits(source.test, hostile, "test", "x"), None)
    assert r"| `a\|b` |" in text
    assert "| `` `c` `` |" in text
    assert "\n# e" not in text
    yaml.safe_load(text.split("---")[1])


def test_a_licence_comes_from_the_card_beside_the_weights() -> None:
    Path("t").mkdir()
    assert license_of("local-dir:t") is None
    for text, found in (
        ("---\ntags: [a]\nlicense: mit\n---\nlicense: gpl", "mit"),
        ("---\nlicense: 'other'\n---\n", "other"),
        ("license: mit", None),
        ("---\ntags: []\n---\nlicense: mit", None),
    ):
        Path("t/README.md").write_text(text)
        assert license_of("local-dir:t") == found
