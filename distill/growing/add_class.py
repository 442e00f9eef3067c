"""`dhox add-class`: a finished run and a few images to a new run that knows one class more; only the heads grow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from lightning_fabric import Fabric

from dhox.artefacts.arrays import write_arrays
from dhox.artefacts.common import Accuracy, ClassEntry
from dhox.artefacts.files import RUN_FILE, RUN_SCHEMA, check_output, output_directory, sha256
from dhox.artefacts.images import IMAGES_FILE
from dhox.artefacts.logits import TEST_FILE, VAL_FILE, HeadLogits, Logits
from dhox.artefacts.record import write_record
from dhox.artefacts.run import Added, HeldClasses, Run, SetsSummary
from dhox.artefacts.run_directory import SPLITS_FILE, WEIGHTS_FILE, RunDirectory, open_run, write_run_file
from dhox.artefacts.selection import SELECTION_FILE, Selection
from dhox.data.dataset import Item
from dhox.data.manifest import write_manifest
from dhox.distill.growing.material import Material, gather, read_new_images
from dhox.distill.growing.new_row import LARGEST_SHIFT, NewRow, PlainHead, learn_row, stored_rows
from dhox.distill.images.pixels import to_model
from dhox.distill.options import worker_count
from dhox.distill.processes import create_fabric
from dhox.distill.results.evaluate import pixel_loader, predict_logits
from dhox.distill.results.outcome import RunResult, answers_right, select, test_rows
from dhox.distill.small_options import AddClassOptions
from dhox.distill.students.student import Student, load_student, save_student
from dhox.errors import DhoxError, GateFailedError
from dhox.evidence.statistics import paired_lower_bound
from dhox.labelling.classes import checked_name
from dhox.progress import progress_bar, working
from dhox.system.environment import now, versions

ALLOWED = 0.01  # of the spread of the stored logits: what another device may change


@dataclass(frozen=True)
class AddResult(RunResult):
    """The new run, and what its last class came to."""

    added: Added


@dataclass(frozen=True, eq=False)
class Growth:
    """The heads with one row more, and `recall`: bool [K], whether the new images are answered right by rows that did
    not see them."""

    student: Student
    recall: np.ndarray


@dataclass(frozen=True, eq=False)
class Answers:
    """What a run with one class more answers: val.npz, test.npz where there is a test, and alpha and beta as before."""

    val: Logits
    test: Logits | None
    selection: Selection


@dataclass(frozen=True)
class Place:
    """The run before, its student on the device, and how images are read."""

    source: RunDirectory
    student: Student
    fabric: Fabric
    workers: int

    def batches(self, items: list[Item]) -> torch.utils.data.DataLoader[torch.Tensor]:
        """Whole images, uint8 [b, size, size, 3]."""
        return pixel_loader(items, self.source.run.preprocessing, self.workers, self.fabric)

    def features(self, items: list[Item], what: str) -> torch.Tensor:
        """z of whole images, float32 [N, d] in host memory."""
        preprocessing, parts = self.source.run.preprocessing, []
        self.student.eval()
        with (
            progress_bar(what, len(items)) as advance, torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        ):  # fmt: skip
            for batch in self.batches(items):
                pixels = to_model(self.fabric.to_device(batch), preprocessing.mean, preprocessing.std)
                parts.append(self.student.backbone(pixels).float().cpu())
                advance(len(batch))
        return torch.cat(parts)

    def answers(self, student: Student, items: list[Item]) -> HeadLogits:
        """Both heads' logits of whole images."""
        return predict_logits(self.fabric, student, self.batches(items), len(items), self.source.run.preprocessing)


def add_class(run: Path, name: str, out: Path, options: AddClassOptions) -> AddResult:
    """Write the run directory `out`: the student of `run` with a row for the class `name` in each head.

    Backbone and old rows keep their bytes, alpha and beta their values. Raises DhoxError for a name that cannot be a
    class, images that are not there or contradict the run, and a run whose images are gone, before anything is
    written.
    """
    new, machine = options.new, options.machine
    check_output(out, RUN_FILE, RUN_SCHEMA, machine.overwrite)
    source = open_run(run)
    if out.resolve() == run.resolve():
        raise DhoxError(f"{out} is the run itself, and a new class makes a new run.", "Choose another --out.")
    name = checked_name(name, source.run.labels)
    images = read_new_images(new.images, name, options.old.skip_bad_images)
    material = gather(source, images, name, options.old.data, options.old.skip_bad_images)
    fabric = create_fabric(machine.device, "32-true")[0]
    student = fabric.to_device(load_student(run, source.run.student))
    place = Place(source, student, fabric, worker_count(machine.workers))
    growth = grow(place, material, new.max_accuracy_drop)
    with working("Answering the validation and test images"):
        answers = answer_again(place, growth.student, material)
    added = Added(
        name=name, run=str(run.absolute()), weights_sha256=sha256(run / WEIGHTS_FILE),
        images=str(new.images.absolute()), n_images=len(material.new), n_old=len(material.old),
        recall=Accuracy.of(growth.recall), old=held(source, answers),
    )  # fmt: skip
    with output_directory(out, RUN_FILE, RUN_SCHEMA, machine.overwrite) as folder:
        save_student(growth.student, folder)
        write_arrays(folder / VAL_FILE, answers.val)
        if answers.test is not None:
            write_arrays(folder / TEST_FILE, answers.test)
        write_arrays(folder / IMAGES_FILE, source.images)
        write_record(folder / SELECTION_FILE, answers.selection)
        write_manifest(folder / SPLITS_FILE, material.splits)
        data = str(out.absolute() / SPLITS_FILE)
        summary = write_run_file(folder, described(source, answers, material, added, data))
    return AddResult(out, summary, answers.selection, added)


def grow(place: Place, material: Material, allowed: float | None) -> Growth:
    """Learn a row for each head; `allowed`: points that the old classes may lose on the images that hold them."""
    student, selection = place.student, place.source.selection
    z_new = place.features(material.new, "Features of the new class")
    z_old = place.features(material.old, "Features of the old classes")
    kinds = [("ce_head", "linear", 1.0), ("kd_head", student.kd_kind, selection.beta)]
    heads = {
        head: PlainHead.of(kind, getattr(student, head), temperature)
        for head, kind, temperature in kinds if getattr(student, head) is not None
    }  # fmt: skip
    shares = [selection.alpha, 1 - selection.alpha][: len(heads)] if len(heads) > 1 else [1.0]
    before = mixture([head.logits(head.inputs(z_old)) for head in heads.values()], shares)
    classes = material.old_classes(place.source.run.labels, before.argmax(1))
    with working("Learning the new row"):
        rows = {key: learn_row(head, z_new, z_old, classes) for key, head in heads.items()}

    def crossed(z: torch.Tensor, logits: Callable[[NewRow], torch.Tensor], shift: float) -> torch.Tensor:
        """The mixture with the cross-fitted rows, [N, C + 1]."""
        found = [
            torch.cat([head.logits(head.inputs(z)), logits(rows[key])[:, None] + (0 if head.length else shift)], 1)
            for key, head in heads.items()
        ]
        return mixture(found, shares)

    shift = 0.0
    if allowed is not None:
        right = before.argmax(1) == classes

        def lost(shift: float) -> float:
            """The share of old images that are no longer answered right."""
            return float((right & (crossed(z_old, lambda row: row.of_old, shift).argmax(1) != classes)).double().mean())

        shift = largest_shift(lost, allowed / 100)
    recall = crossed(z_new, lambda row: row.of_new, shift).argmax(1) == len(place.source.run.labels)
    grown = with_rows(student, {key: dict(stored_rows(kind, rows[key], heads[key], shift))
                                for key, kind, _ in kinds if key in heads})  # fmt: skip
    return Growth(grown, recall.numpy())


def mixture(logits: list[torch.Tensor], shares: list[float]) -> torch.Tensor:
    """DHO inference of heads whose logits [N, C] are over their temperatures."""
    return torch.stack([share * one.softmax(1) for share, one in zip(shares, logits, strict=True)]).sum(0)


def largest_shift(loss: Callable[[float], float], allowed: float) -> float:
    """The shift of the new class's logits in [-LARGEST_SHIFT, 0] nearest 0 at which `loss` is at most `allowed`."""
    if loss(0.0) <= allowed:
        return 0.0
    low, high = -LARGEST_SHIFT, 0.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if loss(middle) <= allowed else (low, middle)
    return low


def with_rows(student: Student, rows: dict[str, dict[str, torch.Tensor]]) -> Student:
    """A student with the same backbone and one row more in each head: head -> parameter -> its new row."""
    old = student.state_dict()
    grown = Student(
        student.backbone, student.ce_head.in_features, student.classes + 1, student.kd_head is not None, student.kd_kind
    )
    more = {f"{head}.{name}": row for head, of_head in rows.items() for name, row in of_head.items()}
    grown.load_state_dict({name: torch.cat([part, more[name].to(part)]) if name in more else part
                           for name, part in old.items()})  # fmt: skip
    return grown.to(next(iter(old.values())).device).eval()


def answer_again(place: Place, student: Student, material: Material) -> Answers:
    """Validation and test with the new column; the old ones are those that the run stored."""
    source, two_heads = place.source, student.kd_head is not None
    val = joined(source.validation, place.answers(student, material.validation), source.path)
    if val.unlabelled is not None:
        pile = place.answers(student, material.old[material.n_labelled :])
        val = replace(
            val, unlabelled_ce_logits=pile.ce_logits, unlabelled_kd_logits=pile.kd_logits,
            unlabelled_z_norms=pile.z_norms, unlabelled_teacher_predictions=None,
        )  # fmt: skip
    test = None
    if source.test is not None:
        test = joined(source.test, place.answers(student, material.test), source.path)
    old = source.selection
    selection = select(val, source.run.sets.selection, two_heads, old.metric, (old.alpha, old.beta))
    return Answers(val, test, selection)


def joined(stored: Logits, found: HeadLogits, run: Path) -> Logits:
    """Stored logits [N, C] with the last column of [N, C + 1] found now. Raises DhoxError where the others differ."""
    columns = {}
    for head in ("ce_logits", "kd_logits"):
        then, today = getattr(stored, head), getattr(found, head)
        spread = max(float(then.std()), 1e-12) if then.size else 1.0
        if then.size and float(np.sqrt(((today[:, :-1] - then) ** 2).mean(1)).max()) > ALLOWED * spread:
            raise DhoxError(
                f"The student in {run} answers the run's images otherwise than after its training.",
                "Restore its weights and the preprocessing in run.json, or train again.",
            )
        columns[head] = np.concatenate([then, today[:, -1:]], 1)
    return replace(stored, **columns, kd_bias=found.kd_bias, teacher_logits=None)  # the teacher was not asked


def held(source: RunDirectory, answers: Answers) -> HeldClasses | None:
    """What the old classes keep on test, else on validation."""
    pair = (source.test, answers.test) if source.test is not None else (source.validation, answers.val)
    before, after = (None if one is None else answers_right(one, source.selection) for one in pair)
    if before is None or after is None or not len(before):
        return None
    return HeldClasses(
        images="test" if source.test is not None else "validation", before=Accuracy.of(before),
        after=Accuracy.of(after), gained=int((after & ~before).sum()), lost=int((before & ~after).sum()),
    )  # fmt: skip


def described(source: RunDirectory, answers: Answers, material: Material, added: Added, data: str) -> Run:
    """run.json of the new run."""
    run, changed = source.run, msgspec.structs.replace
    entry = ClassEntry(len(run.classes), added.name, added.name.replace("_", " "))
    names = run.sets.labelled + [item.name for item in material.new]
    sets: SetsSummary = changed(run.sets, labelled=names, n_labelled=len(names))
    note = (
        f"{added.name} joined {added.run} after its training: one row in each head, learned from {added.n_images} "
        f"images; validation and test hold none of it, and alpha and beta are those of before"
    )
    settings = (
        None if run.settings is None else run.settings | {"added": [*(one.name for one in run.added), added.name]}
    )
    return changed(
        run, finished_at=now(), data=data, classes=[*run.classes, entry], sets=sets,
        student=changed(run.student, classes=len(run.classes) + 1), notes=[*run.notes, *material.notes, note],
        test=None if answers.test is None else test_rows(answers.test, answers.selection, run.student.two_heads),
        environment=versions(), settings=settings, added=[*run.added, added], retuned_at=None,
    )  # fmt: skip


def check_drop(added: Added, allowed: float | None) -> None:
    """Raise GateFailedError where the old classes may have lost more than `allowed` points, by the 95 % bound."""
    old = added.old
    if allowed is None:
        return
    if old is None:
        raise GateFailedError("No test and no validation image says what the old classes lost.", "Give the run some.")
    bound = -100 * paired_lower_bound(old.gained, old.lost, old.before.n)
    if bound > allowed:
        drop = 100 * (old.before.accuracy - old.after.accuracy)
        raise GateFailedError(
            f"The old classes lost {drop:.2f} points on {old.before.n} images of {old.images}, by the 95 % bound up to "
            f"{bound:.2f} (allowed: {allowed:g}).",
            "The new run is written: give it more images of the class, allow more, or train again with them.",
        )
