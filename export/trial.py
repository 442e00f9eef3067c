"""Whether a student can be exported, tried before it is trained: untrained, through the very code of `dhox export`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec.structs import replace

from dhox.console import say
from dhox.distill.options import Student as StudentOptions
from dhox.distill.students.student import parameters_m
from dhox.errors import DhoxError, first_line
from dhox.export.graphs.known_students import Verdict, choose_another
from dhox.export.run import export
from dhox.export.untrained import untrained_student, write_untrained_run
from dhox.progress import quietly

CLASSES, IMAGES = 10, 8  # the graph is the same for any number of classes
LARGEST_M = 100  # millions of parameters; larger ones take minutes, and several times their weights in memory
OF_THIS_MACHINE = (OSError, MemoryError, ImportError)


def try_export(options: StudentOptions, *, two_heads: bool, large: bool = False) -> Verdict:
    """Export a student of these options, whose weights do not matter, and throw the export away.

    Folded, in fp32, with random weights, checked as every export is. One of more than LARGEST_M is passed over unless
    `large`. What this machine lacks (space, a package) is said, and is no refusal. Raises DhoxError where the student
    cannot be exported, with the nearest one that can.
    """
    name, start = options.student, time.perf_counter()
    heads = {"kd_head": options.kd_head if two_heads else "linear", "init_heads": "random", "init_from": None}
    student = untrained_student(replace(options, student_weights="none", **heads), CLASSES, two_heads=two_heads)
    size, millions = student.spec.image_size, parameters_m(student.model.backbone)
    if millions > LARGEST_M and not large:
        say(f"{name} has {millions:.0f} M parameters: whether it can be exported is not tried (--export-check tries).")
        return Verdict(f"not tried ({millions:.0f} M parameters; --export-check tries)")
    say(f"Trying whether {name} can be exported at {size} pixels, before the training (--no-export-check: do not) ...")
    try:
        with TemporaryDirectory() as folder, quietly():
            run = write_untrained_run(student, Path(folder, "untrained"), IMAGES)
            with _refused(name, size, millions):
                export(run, Path(folder, "export"))
    except OF_THIS_MACHINE as err:
        say(f"That could not be tried here: {first_line(err)}.")
        return Verdict(f"not tried ({first_line(err)})")
    seconds = time.perf_counter() - start
    say(f"{name} can be exported ({seconds:.0f} s).")
    return Verdict("works, tried", seconds)


@contextmanager
def _refused(name: str, size: int, millions: float) -> Iterator[None]:
    """The errors of an export as one DhoxError that says whose they are; what this machine lacks is raised as it is."""
    try:
        yield
    except Exception as err:  # torch, ONNX Runtime and students raise many types
        cause: BaseException | None = err
        while cause is not None:
            if isinstance(cause, OF_THIS_MACHINE):
                raise cause from None
            cause = cause.__cause__
        reason = err.reason if isinstance(err, DhoxError) else f"{type(err).__name__}: {first_line(err)}."
        raise DhoxError(
            f"{name} could be trained, but not exported at {size} pixels: {reason}",
            f"{choose_another(name, size, millions)} Or train it all the same with --no-export-check.",
        ) from err
