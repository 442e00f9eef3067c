"""MODEL_CARD.md of an export, in the form that model hubs read: written from what was recorded, nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from dhox.artefacts.bench import Bench
from dhox.artefacts.common import Accuracy, TeacherEntry
from dhox.artefacts.files import write_bytes
from dhox.artefacts.logits import Logits
from dhox.artefacts.manifest import Manifest
from dhox.artefacts.run import Run
from dhox.artefacts.run_directory import RunDirectory
from dhox.evidence.statistics import expected_calibration_error
from dhox.export.folding.fold import fold_probs

CARD_FILE = "MODEL_CARD.md"
METHODS = {
    "dho": "dual-head optimisation (DHO, arXiv 2505.07675): labels and a CLIP teacher, a head for each",
    "sho": "labels and a CLIP teacher, one head for both", "ce": "labels alone", "kd": "a CLIP teacher alone",
    "untrained": "nothing: its weights are random",
}  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """How often the answers are right. `images`: which; `by`: what answered. `classes`: the same of each class."""

    split: str
    images: str
    by: str
    whole: Accuracy
    classes: list[Accuracy]
    calibration_error: float | None


def judged_by_logits(logits: Logits | None, manifest: Manifest, split: str, images: str) -> Judged | None:
    """The folded student in torch on images whose logits are kept; None without them."""
    if logits is None or not len(logits):
        return None
    probs = fold_probs(logits, manifest.fold)
    right = probs.argmax(-1) == logits.labels
    classes = [Accuracy.of(right[logits.labels == number]) for number in range(len(manifest.names))]
    error = expected_calibration_error(probs, logits.labels)
    return Judged(split, images, "the folded student in torch", Accuracy.of(right), classes, error)


def judged_by_bench(bench: Bench, manifest: Manifest) -> Judged | None:
    """The default model as the bench ran it; None where that measured no accuracy."""
    names = {model.name for model in bench.models if model.precision == manifest.default}
    row = next((row for row in bench.accuracy.rows if row.model in names), None)
    if row is None:
        return None
    classes = [Accuracy.of_counts(round((of.recall or 0.0) * of.n), of.n) for of in row.per_class]
    by = f"{default_file(manifest)} by {row.runner}"
    return Judged(
        bench.accuracy.split, f"{row.n:,} {bench.accuracy.split} images", by, row, classes, row.calibration_error
    )


def default_file(manifest: Manifest) -> str:
    """The file that is taken where none is asked for."""
    return next(entry.file for entry in manifest.artefacts if entry.precision == manifest.default)


def write_card(folder: Path, manifest: Manifest, source: RunDirectory | None, bench: Bench | None = None) -> None:
    """Write the card of an export. `source`: its run, where that is at hand; `bench`: of these very files."""
    judged = judged_by_bench(bench, manifest) if bench else None
    if judged is None and source is not None:
        test, val = source.run.sets.n_test, source.run.sets.n_validation
        judged = judged_by_logits(source.test, manifest, "test", f"{test:,} test images") or judged_by_logits(
            source.validation, manifest, "validation", f"{val:,} validation images, which also chose the fold"
        )
    write_bytes(folder / CARD_FILE, card(manifest, source.run if source else None, judged, bench).encode())


def card(manifest: Manifest, run: Run | None, judged: Judged | None, bench: Bench | None) -> str:
    """The whole card."""
    parts = [
        front_matter(manifest, run, judged), f"# {title(manifest)}", *what_it_does(manifest),
        "## Training", *training_lines(manifest, run),
        "## Accuracy", *accuracy_lines(manifest, judged),
        "## Files", *file_lines(manifest), *latency_lines(bench),
        "## Use", *use_lines(),
        "## Limits", *limit_lines(manifest, run, judged),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def title(manifest: Manifest) -> str:
    """The run's name and the student's."""
    return f"{Path(manifest.run.path).name}: {manifest.student.name}"


def data_name(manifest: Manifest, run: Run | None) -> str:
    """What DATA is called, without the place where it lies."""
    asked = (run.settings or {}).get("data") if run else None
    return Path(str(asked or manifest.data)).name


def front_matter(manifest: Manifest, run: Run | None, judged: Judged | None) -> str:
    """What hubs index, as YAML; JSON texts are YAML texts."""
    lines = [
        "library_name: onnx", "pipeline_tag: image-classification",
        "tags: [image-classification, onnx, knowledge-distillation, dhox]",
    ]  # fmt: skip
    if manifest.student.weights == "pretrained" and manifest.student.tower is None:
        lines.append(f"base_model: {json.dumps(f'timm/{manifest.student.name}')}")
    if judged is not None:
        lines += [
            "metrics: [accuracy]", "model-index:", f"- name: {json.dumps(title(manifest), ensure_ascii=False)}",
            "  results:", "  - task: {type: image-classification}",
            f"    dataset: {{type: imagefolder, name: {json.dumps(data_name(manifest, run), ensure_ascii=False)}, "
            f"split: {judged.split}}}",
            f"    metrics: [{{type: accuracy, value: {judged.whole.accuracy:.4f}}}]",
        ]  # fmt: skip
    return "\n".join(["---", *lines, "---"])


def what_it_does(manifest: Manifest) -> list[str]:
    """Input, output, classes."""
    pre, classes = manifest.preprocessing, manifest.classes
    named = ", ".join(code(entry.name) for entry in classes[:100])
    more = f" and {len(classes) - 100} more (manifest.json)" if len(classes) > 100 else ""
    shape = "both sides" if pre.squash else "the shorter side"
    smaller = "" if pre.jpeg_side is None else (
        f" A JPEG is decoded at 1/2, 1/4 or 1/8 of its sides, the smallest that leaves {pre.jpeg_side} pixels of the "
        "shorter one."
    )  # fmt: skip
    return [
        f"Classifies an image into one of {len(classes)} classes: {named}{more}.",
        f"Input: {pre.crop} x {pre.crop} pixels, RGB, uint8. An image is turned upright by EXIF, transparency is laid "
        f"over black, {shape} resized to {pre.resize} pixels ({pre.interpolation}, Pillow), the middle cut out. Output "
        f"`probs`: float32, a probability per class.{smaller}",
    ]  # fmt: skip


def training_lines(manifest: Manifest, run: Run | None) -> list[str]:
    """Method, data, teacher, student."""
    teacher, student = manifest.teacher, manifest.student
    lines = [f"Method: {METHODS[manifest.run.method]}."]
    if run is not None:
        sets = run.sets
        lines.append(
            f"Data: {code(data_name(manifest, run))}, {sets.n_labelled:,} labelled, {sets.n_unlabelled:,} unlabelled "
            f"images; {sets.n_validation:,} validation images ({sets.selection}), {sets.n_test:,} test images."
        )
    lines.append(f"Labels that chose how the heads are mixed: {manifest.n_selection_labels:,}.")
    if teacher is not None:
        said = teacher.license or "not stated beside its weights: look it up where they come from"
        lines.append(f"Teacher: {code(teacher_name(teacher))}. Its licence: {said}.")
    lines.append(f"Student: {code(student.name)} from weights {code(student.weights)}.")
    return ["\n".join(f"- {line}" for line in lines)]


def teacher_name(teacher: TeacherEntry) -> str:
    """The teacher's name without the place of a local one."""
    _, local, place = teacher.name.rpartition("local-dir:")
    return f"{local}{Path(place).name}" if local else teacher.name


def accuracy_lines(manifest: Manifest, judged: Judged | None) -> list[str]:
    """Of all images and of each class, calibration, and the reject rule."""
    if judged is None:
        return ["Not measured: no labelled image was at hand."]
    error = "" if judged.calibration_error is None else f" Expected calibration error: {judged.calibration_error:.3f}."
    rows = [
        f"| {code(name)} | {of.n:,} | {interval(of)} |" for name, of in zip(manifest.names, judged.classes, strict=True)
    ]
    table = "\n".join(["| class | images | right, % (95 % interval) |", "| --- | ---: | ---: |", *rows])
    lines = [f"{interval(judged.whole)} % of {judged.images} (95 % interval), by {judged.by}.{error}", table]
    if (reject := manifest.reject) is not None:
        lines.append(
            f"Below a top probability of {reject.threshold:.3f} the answer is unknown: {100 * reject.coverage:.1f} % "
            f"of {reject.n:,} validation images are answered, {interval(reject.answered)} % of them right."
        )
    return lines


def interval(of: Accuracy) -> str:
    """`81.2 (79.0-83.3)`; nothing of no image."""
    low, high = of.interval
    return f"{100 * of.accuracy:.1f} ({100 * low:.1f}-{100 * high:.1f})" if of.n else "-"


def file_lines(manifest: Manifest) -> list[str]:
    """The models."""
    rows = [
        f"| {code(entry.file)}{' (default)' if entry.precision == manifest.default else ''} | {entry.precision} | "
        f"{entry.bytes / 1e6:.2f} | {entry.opset} | `{entry.sha256}` |"
        for entry in manifest.artefacts
    ]
    return ["\n".join(["| file | precision | MB | opset | SHA-256 |", "| --- | --- | ---: | ---: | --- |", *rows])]


def latency_lines(bench: Bench | None) -> list[str]:
    """Of one image, where it was measured."""
    if bench is None:
        return ["Latency: not measured yet; `dhox bench` writes it here."]
    precisions = {model.name: model.precision for model in bench.models}
    rows = [
        f"- {precisions[row.model]} by {row.runner}: {row.latency_ms.p50:.3f} ms (p95 {row.latency_ms.p95:.3f})"
        for row in bench.latency
        if row.batch == 1 and row.scope == "e2e" and not row.emulated
    ]
    where = f"Latency of one image, pixels in host memory to probabilities in host memory, on {device_name(bench)}:"
    return [where, "\n".join(rows)] if rows else []


def device_name(bench: Bench) -> str:
    """What computed, without the machine's name in its network."""
    card = bench.device
    if card.jetson:
        return card.jetson.model
    return f"{card.cpu}, {card.cpu_cores} cores{f', {card.gpu.name}' if card.gpu else ''}"


def use_lines() -> list[str]:
    """How to get an answer."""
    return ['```python\nimport dhox\n\nmodel = dhox.load("PATH OF THIS FOLDER")\nprobs = model(["image.jpg"])\n```']


def limit_lines(manifest: Manifest, run: Run | None, judged: Judged | None) -> list[str]:
    """What the numbers do not say."""
    lines = [
        "It always names one of its classes" + ("" if manifest.reject else ", also for an image of none of them") + ".",
        "The accuracy is that of images like those above; other cameras, places and times were not measured.",
        "What the teacher and the pretrained student learned from the web, biases included, may show.",
    ]  # fmt: skip
    if judged is not None:
        few = [name for name, of in zip(manifest.names, judged.classes, strict=True) if of.n < 30]
        if few:
            shown = ", ".join(map(code, few[:5])) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
            lines.append(f"Fewer than 30 images judged these classes, so look at their intervals: {shown}.")
    lines += [] if run is None else [f"{note[0].upper()}{note[1:]}." for note in run.notes]
    return ["\n".join(f"- {escape(line)}" for line in lines)]


def code(text: str) -> str:
    """A name as it stands, in a table too."""
    plain = " ".join(text.split()).replace("|", "\\|")
    return f"`` {plain} ``" if "`" in plain else f"`{plain}`"


def escape(text: str) -> str:
    """A sentence that holds names, without markup."""
    return " ".join(text.split()).replace("<", "&lt;")
