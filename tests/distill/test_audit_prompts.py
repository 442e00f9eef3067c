"""`audit --labels --prompts`: class names that the teacher does not understand, and better ones by the labels."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CLASSES
from quick_distill import DEMO_TEACHER
from refusals import refuses

from dhox.artefacts.audit import Audit, Gain, PromptTrial
from dhox.cli.main import main
from dhox.data.dataset import read_class_file
from dhox.distill.auditing.audit import audit
from dhox.distill.auditing.linear_probe import deal
from dhox.distill.auditing.prompts import Answers, best_of, cross_fitted, other_templates
from dhox.distill.small_options import AuditOptions
from dhox.distill.teachers.templates import template_list
from dhox.errors import UsageError
from dhox.options.declare import build
from dhox.reports.pages.audit import write_audit_page

WRONG = "bag\ndress\nsandal,quarterly tax return\ntrousers\n"


@pytest.fixture
def pile(line: Path, tmp_path: Path) -> Path:
    """The training images without their folders, 12 labels of each class beside them, and a wrong class list."""
    root = tmp_path / "pile"
    root.mkdir()
    rows = ["path,label"]
    for name in CLASSES:
        for image in sorted((line / "data/train" / name).iterdir()):
            shutil.copy(image, root / f"{name}-{image.name}")
            if int(image.stem) < 12:
                rows.append(f"pile/{name}-{image.name},{name}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "wrong.txt").write_text(WRONG)
    return root


def run_audit(data: Path, out: str = "a", **options: object) -> Audit:
    given: dict[str, Any] = {"teacher": DEMO_TEACHER, "device": "cpu", "workers": 0, "template": ["a {}"]}
    return audit(data, Path(out), build(AuditOptions, **given | options))


def trial_of(audit: Audit) -> PromptTrial:
    assert audit.prompts is not None
    return audit.prompts


def prompts(text: str) -> Path:
    Path("prompts.txt").write_text(text)
    return Path("prompts.txt")


def test_a_wrong_name_is_found_and_the_right_one_recommended(pile: Path) -> None:
    given = {"labels": Path("labels.csv"), "classes": Path("wrong.txt")}
    found = run_audit(pile, prompts=prompts("sandal\tblue whale\nsandal\tsandal\nbag,asteroid\n"), **given)
    trial = trial_of(found)
    rows = {row.class_: row for row in trial.classes}
    sandal = rows["sandal"]
    assert [row.n for row in trial.classes] == [12, 12, 12, 12]
    assert (sandal.prompt, sandal.tried, sandal.best) == ("quarterly tax return", 2, "sandal")
    assert sandal.not_understood
    assert sandal.recommended
    assert (rows["bag"].tried, rows["bag"].best, rows["bag"].recommended) == (1, None, False)
    assert rows["dress"].gain is None
    assert trial.class_list
    assert read_class_file(Path("a/classes.txt")) == [(name, name) for name in CLASSES]
    better = run_audit(pile, "b", **given | {"classes": Path("a/classes.txt")})
    assert trial.together is not None
    assert trial.together == sandal.gain
    assert better.ways[0].correct - found.ways[0].correct == trial.together.gained - trial.together.lost >= 4
    rows = {row.class_: row for row in trial_of(better).classes}
    assert not rows["sandal"].not_understood
    for name, row in rows.items():
        others = [one.accuracy for one in rows.values() if one is not row]
        assert row.not_understood == (row.interval[1] < np.mean(others)), name
    assert not Path("b/classes.txt").exists()
    page = write_audit_page(Path("a")).read_text(encoding="utf-8")
    assert "<h2>Class names the teacher does not understand" in page


def test_nonsense_is_not_recommended(pile: Path) -> None:
    lines = "".join(f"{name}\tblue whale\n{name}\tquarterly tax return\n" for name in CLASSES)
    trial = trial_of(run_audit(pile, labels=Path("labels.csv"), prompts=prompts(lines)))
    assert [row.tried for row in trial.classes] == [2, 2, 2, 2]
    assert not any(row.recommended for row in trial.classes)
    assert trial.together is None
    assert not trial.class_list
    assert not Path("a/classes.txt").exists()


def test_the_next_command_takes_the_better_list(pile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = prompts("sandal\tsandal\n")
    with pytest.raises(SystemExit, match="0"):
        main(["audit", str(pile), "--labels", "labels.csv", "--classes", "wrong.txt", "--prompts", str(file),
              "--teacher", DEMO_TEACHER, "--device", "cpu", "--template", "a {}", "--out", "o"])  # fmt: skip
    out = capsys.readouterr().out
    (following,) = [line for line in out.splitlines() if line.startswith("Next: ")]
    assert "--classes=o/classes.txt" in following
    assert "--labels=labels.csv" in following
    assert "--prompts" not in following


def test_test_images_have_no_part(line: Path, tmp_path: Path) -> None:
    """Without a val split the labels of train judge; what test says changes nothing."""
    data = tmp_path / "data"
    shutil.copytree(line / "data", data)
    shutil.rmtree(data / "val")
    file = prompts("sandal\tsandal\nsandal\tshoe\n")
    Path("wrong.txt").write_text(WRONG)
    before = run_audit(data, shots=8, classes=Path("wrong.txt"), prompts=file)
    for old, new in (("bag", "x"), ("sandal", "bag"), ("x", "sandal")):
        (data / "test" / old).rename(data / "test" / new)
    assert run_audit(data, "b", shots=8, classes=Path("wrong.txt"), prompts=file).prompts == before.prompts
    assert sum(row.n for row in trial_of(before).classes) == 32


def test_labels_of_some_classes_judge(pile: Path) -> None:
    labels = Path("labels.csv")
    few = [row for row in labels.read_text().splitlines() if "trousers" not in row]
    labels.write_text("\n".join([*few, "pile/trousers-000.png,trousers", ""]))
    found = run_audit(pile, labels=labels, classes=Path("wrong.txt"))
    assert (found.judges.n, found.sets.labelled) == (37, 37)
    assert [row.class_ for row in trial_of(found).classes] == ["bag", "dress", "sandal"]  # one image says nothing
    few = [row for row in few if "dress" not in row]
    labels.write_text("\n".join(few))
    found = run_audit(pile, "b", labels=labels, classes=Path("wrong.txt"))
    assert found.judges.n == 24
    assert any("no label yet for 2 of 4 classes" in note for note in found.notes)


def test_what_cannot_be_tried_is_told(pile: Path) -> None:
    given = {"labels": Path("labels.csv"), "classes": Path("wrong.txt")}
    with refuses("prompts.txt", "sandals", at="data.dataset.read_prompt_file"):
        run_audit(pile, prompts=prompts("sandals\tshoe\n"), **given)
    with refuses("prompts.txt", "empty", at="data.dataset.read_prompt_file"):
        run_audit(pile, prompts=prompts("\n"), **given)
    with refuses("nowhere.txt", at="data.dataset.read_prompt_file", kind=UsageError):
        run_audit(pile, prompts=Path("nowhere.txt"), **given)
    with refuses("--prompts", "label", at="distill.auditing.audit.audit", fix="--labels"):
        run_audit(pile, prompts=prompts("sandal\tshoe\n"), classes=Path("wrong.txt"))
    run_audit(pile, **given)
    shutil.copy("wrong.txt", "a/classes.txt")
    with refuses("--classes", "written anew", at="distill.auditing.audit._check_inputs", kind=UsageError):
        run_audit(pile, labels=Path("labels.csv"), classes=Path("a/classes.txt"), overwrite=True)


def test_answers_with_another_column_are_those_of_the_whole_matrix() -> None:
    generator = np.random.default_rng(0)
    logits = generator.integers(-3, 4, (200, 5)).astype(np.float32)  # many ties
    truth = generator.integers(0, 5, 200)
    answers = Answers(logits, truth)
    for number in range(5):
        column = generator.integers(-3, 4, 200).astype(np.float32)
        whole = logits.astype(np.float64)
        whole[:, number] = column
        found = answers.of_column(number, column)
        assert (found.right == (whole.argmax(1) == truth)).all()
        nll = np.log(np.exp(whole).sum(1)) - whole[np.arange(200), truth]
        assert found.nll == pytest.approx(nll, abs=1e-4)


def test_a_fold_is_answered_by_what_the_others_choose() -> None:
    """Five images of one class; the second prompt is right for fold 0 alone, so fold 0 is never answered by it."""
    logits = np.array([[0.0, 1.0], [2.0, 1.0], [0.0, 1.0], [0.0, 1.0]], np.float32)
    answers = Answers(logits, np.zeros(4, int))
    folds = np.array([0, 1, 2, 3])
    present, other = logits[:, 0], np.array([3.0, 0.0, 0.0, 0.0], np.float32)
    columns = [answers.of_column(0, present), answers.of_column(0, other)]
    assert [column.right.tolist() for column in columns] == [[False, True, False, False], [True, False, False, False]]
    assert best_of(columns, folds != 0) == 0
    assert best_of(columns, folds != 1) == 1
    assert cross_fitted(columns, folds).right.tolist()[:2] == [False, False]


@pytest.mark.parametrize(("gained", "lost", "shown"), [(3, 0, False), (4, 0, True), (5, 1, False), (7, 1, True)])
def test_a_gain_is_shown_from_four_images_on(gained: int, lost: int, shown: bool) -> None:
    old = np.array([False] * gained + [True] * (120 - gained))
    new = np.array([True] * (120 - lost) + [False] * lost)
    gain = Gain.of(new, old)
    assert (gain.gained, gain.lost, gain.n, gain.shown) == (gained, lost, 120, shown)
    assert gain.difference == pytest.approx(100 * (gained - lost) / 120)


def test_groups_stay_in_one_fold() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    assert deal(labels, ["a", "a", "b", "b", "c", "d"], 5).tolist() == [0, 0, 1, 1, 1, 2]


def test_templates_in_use_are_not_tried() -> None:
    assert list(other_templates(template_list("simple", []))) == ["imagenet"]
    assert list(other_templates(["a {}"])) == ["simple", "imagenet"]
