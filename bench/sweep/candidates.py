"""The cache of untrained students: one export directory each, made once, measured anywhere.

The folder may be copied to a board, which has no torch and needs none then. Its name begins with a dot by default, so
that no command takes an untrained student for the newest export.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import dhox
from dhox.artefacts.files import EXPORT_FILE
from dhox.artefacts.sweep import Failed
from dhox.errors import DhoxError, StoppedError, UsageError
from dhox.models.export_directory import open_export
from dhox.progress import working

UNTRAINED = "untrained"
CLASSES = 10  # of a candidate, where no number is asked for


@dataclass(frozen=True)
class Candidate:
    """An untrained student's export directory."""

    student: str
    image_size: int
    classes: int
    export: Path


def candidate_folder(root: Path, student: str, image_size: int | None, classes: int) -> Path:
    """Where a candidate lies; `image_size` None: the student's own."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", student).strip(".-")
    return root / f"{slug}-{image_size or 'own'}px-{classes}c"


def cached(folder: Path, student: str | None, precision: str) -> Candidate | None:
    """The candidate in a folder, or None: nothing whole there, another student, or made by another version of dhox."""
    try:
        manifest = open_export(folder).manifest
    except DhoxError:
        return None
    own = manifest.student
    fits = (
        manifest.run.method == UNTRAINED
        and student in (None, own.name)
        and manifest.environment.get("dhox") == dhox.__version__
        and precision in {entry.precision for entry in manifest.artefacts}
    )
    return Candidate(own.name, own.image_size, own.classes, folder) if fits else None


def all_cached(root: Path, precision: str, image_size: int | None, classes: int | None) -> list[Candidate]:
    """The candidates below a folder, each student once; of one image size and number of classes where these are given.

    Raises UsageError where there is none, where they have several numbers of classes, and where a student has several
    sizes.
    """
    folders = sorted(path.parent for path in root.glob(f"*/{EXPORT_FILE}"))
    every = [one for folder in folders if (one := cached(folder, None, precision)) is not None]
    # A student's own size may have been asked for by number too: the same network in two folders.
    found = {
        (one.student, one.image_size, one.classes): one
        for one in every
        if image_size in (None, one.image_size) and classes in (None, one.classes)
    }
    if not found:
        asked = f" of {image_size} px" * (image_size is not None) + f" for {classes} classes" * (classes is not None)
        raise UsageError(
            f"{root} holds no {precision} candidate{asked} of this dhox ({dhox.__version__}).",
            "Name students: --students resnet18,mobilenetv4_conv_small.",
        )
    counts = sorted({number for _, _, number in found})
    if len(counts) > 1:
        raise UsageError(
            f"{root} holds candidates for {' and '.join(map(str, counts))} classes, which do not compare.",
            f"Choose: --classes {counts[0]}.",
        )
    for student, _, _ in found:
        sizes = sorted(size for name, size, _ in found if name == student)
        if len(sizes) > 1:
            raise UsageError(
                f"{root} holds {student} for {' and '.join(map(str, sizes))} px.",
                "Choose one size (--image-size "
                f"{sizes[0]}), or name the students (--students {student},...) for the own size of each.",
            )
    return list(found.values())


def prepare(
    students: list[str], root: Path, image_size: int | None, classes: int, precision: str
) -> tuple[list[Candidate], list[Failed]]:
    """The candidates of `students`, exported where the cache lacks them; and those that failed.

    Ctrl-C keeps those that are exported. Raises DhoxError for a name that no student has, before anything is exported,
    where torch is needed and missing, and where none could be exported.
    """
    found = {name: cached(candidate_folder(root, name, image_size, classes), name, precision) for name in students}
    missing = [name for name, candidate in found.items() if candidate is None]
    failed: list[Failed] = []
    if missing:
        try:
            from dhox.distill.students.student import check_student_name
            from dhox.export.untrained import export_candidate
        except ImportError as err:
            raise DhoxError(
                f"{root} holds no export of {missing[0]}, and exporting needs what is not here ({err}).",
                "Export the "
                f"students on a workstation with dhox sweep --export-only, copy {root} here, and run this again.",
            ) from err
        for name in missing:
            check_student_name(name)
        for name in missing:
            folder = candidate_folder(root, name, image_size, classes)
            try:
                with working(f"Exporting {name}, untrained"):
                    export_candidate(name, image_size, classes, precision == "fp16", folder)
                found[name] = cached(folder, name, precision)
            except KeyboardInterrupt:
                raise StoppedError(
                    "Interrupted.", f"{root} keeps what was exported; the same command goes on there."
                ) from None
            except Exception as err:  # timm's models raise many types for sizes that they cannot take; memory runs out
                failed.append(Failed(name, " ".join(f"{err}".split()) or type(err).__name__))
    candidates = [candidate for candidate in found.values() if candidate is not None]
    if not candidates:
        raise DhoxError("None of the students could be exported.", f"{failed[0].student}: {failed[0].reason}")
    return candidates, failed
