"""Images that changed since training: each command that answers them again says so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image
from plain_files import read_json

from dhox.artefacts.arrays import read_arrays
from dhox.artefacts.images import ImageHashes
from dhox.cli.main import main
from dhox.data.items import Item, content_hash


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([*map(str, arguments)])
    return int(end.value.code or 0)


def bench(export: Path, data: Path) -> dict[str, object]:
    """bench.json of an export over DATA."""
    assert command("bench", export, "--data", data, "--precision", "fp32", "--batch", "1", "--duration", "0.1",
                   "--device", "cpu", "--out", "b", "--overwrite") == 0  # fmt: skip
    return read_json(Path("b/bench.json"))


def test_a_run_and_its_export_know_the_bytes_of_their_images(own_line: Path) -> None:
    known = read_arrays(own_line / "runs/tiny/images.npz", ImageHashes)
    for split, count in (("val", 80), ("test", 48)):
        hashes = known.by_name(split)  # type: ignore[arg-type]
        assert len(hashes) == count
        for name, content in hashes.items():
            assert content == content_hash(Item(str(own_line / "data" / name), name))
    copied = own_line / "runs/tiny/export/images.npz"
    assert copied.read_bytes() == (own_line / "runs/tiny/images.npz").read_bytes()


def test_the_same_test_images_are_not_spoken_of(own_line: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench(own_line / "runs/tiny/export", own_line / "data")
    assert found["accuracy"]["images"] == {"same": 48, "changed": 0, "missing": 0, "new": 0, "first": None}  # type: ignore[index]
    assert "not those of the run" not in capsys.readouterr().out


def test_changed_missing_and_new_test_images_are_counted_and_named(
    own_line: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third, *_ = sorted((own_line / "data/test").rglob("*.png"))
    Image.new("RGB", (28, 28), "red").save(first)
    second.unlink()
    shutil.copy(third, third.with_name("new.png"))
    found = bench(own_line / "runs/tiny/export", own_line / "data")
    name = first.relative_to(own_line / "data").as_posix()
    assert found["accuracy"]["images"] == {"same": 46, "changed": 1, "missing": 1, "new": 1, "first": name}  # type: ignore[index]
    said = " ".join(capsys.readouterr().out.split())
    assert "1 changed" in said
    assert name in said


def test_a_changed_validation_image_outside_the_sample_is_found(
    own_line: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dhox.export import stored_answers

    monkeypatch.setattr(stored_answers, "MOST_IMAGES", 2)
    victim = sorted((own_line / "data/val").rglob("*.png"))[17]
    Image.new("RGB", (28, 28), "red").save(victim)
    assert command("export", own_line / "runs/tiny", "--data", own_line / "data", "--out", "e") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert victim.relative_to(own_line / "data").as_posix() in said
    assert "changed since" in said


@pytest.mark.parametrize("name", ["bench", "retune"])
def test_a_ledger_is_not_made_of_other_images(own_line: Path, name: str) -> None:
    export, data = own_line / "runs/tiny/export", own_line / "data"
    Image.new("RGB", (28, 28), "red").save(sorted((data / "val").rglob("*.png"))[3])
    if name == "bench":
        note = bench(export, data)["ledgers"][0]["note"]  # type: ignore[index]
    else:
        assert command("retune", export, "--data", data, "--out", "r") == 0
        note = read_json(Path("r/ledger.json"))["note"]
    assert "1 of its images changed" in note
