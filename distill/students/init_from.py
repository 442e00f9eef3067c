"""Starting from an earlier student when data or classes grow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from dhox.artefacts.common import StudentSpec
from dhox.artefacts.run import read_run
from dhox.artefacts.run_directory import WEIGHTS_FILE, check_hashes
from dhox.data.dataset import shorten
from dhox.distill.students.clip_tower import PREFIX, SCHEMES
from dhox.distill.students.student import Student
from dhox.distill.weights_file import check_finite
from dhox.errors import DhoxError
from dhox.system.regular_file import regular


@dataclass(frozen=True)
class Earlier:
    """The student of a finished run: its weights file and its class names in index order."""

    run: Path
    spec: StudentSpec
    classes: list[str]
    state: dict[str, torch.Tensor]


def earlier_student(run: Path, name: str, kd_head: str, two_heads: bool) -> Earlier:
    """Read the student of a run. Raises DhoxError for an unfinished run, another backbone, another kind of KD head."""
    summary = read_run(run)
    check_hashes(run, summary, (WEIGHTS_FILE,))
    spec = summary.student
    if _architecture_of(spec.name) != _architecture_of(name):
        raise DhoxError(
            f"--init-from {run}: its student is {spec.name}, not {name}.", f"Use --student {spec.name}, or another run."
        )
    if two_heads and spec.two_heads and spec.kd_head != kd_head:
        raise DhoxError(f"--init-from {run}: its KD head is {spec.kd_head}.", f"Use --kd-head {spec.kd_head}.")
    try:
        state = load_file(regular(run / WEIGHTS_FILE))
    except Exception as err:
        raise DhoxError(
            f"{run / WEIGHTS_FILE} is missing or damaged ({err}).", "Give another run, or train again."
        ) from err
    check_finite(state, str(run / WEIGHTS_FILE))
    return Earlier(run, spec, summary.labels, state)


def _architecture_of(name: str) -> str:
    """A student's name without the tag of its first weights."""
    if not name.startswith(PREFIX):
        return name.split(".")[0]
    return name if name.removeprefix(PREFIX).startswith(SCHEMES) else name.partition("/")[0]


def copy_earlier(student: Student, earlier: Earlier, classes: list[str]) -> None:
    """Copy the backbone, and the head rows of the classes that both have; other rows keep their initialisation.

    Each head is copied where both students have it (a single head is the CE head). Raises DhoxError where the
    backbone's tensors do not fit, as position embeddings of another image size.
    """
    own = student.state_dict()
    backbone = [name for name in own if name.startswith("backbone.")]
    unfit = [name for name in backbone if name not in earlier.state or earlier.state[name].shape != own[name].shape]
    if unfit:
        raise DhoxError(
            f"--init-from {earlier.run}: {len(unfit)} of the backbone's {len(backbone)} tensors are missing or have "
            f"other shapes there: {shorten(unfit, 3)}.",
            f"Use its image size: --image-size {earlier.spec.image_size}.",
        )
    number = {name: i for i, name in enumerate(classes)}
    rows = [(number[name], i) for i, name in enumerate(earlier.classes) if name in number]
    new, old = ([pair[side] for pair in rows] for side in (0, 1))
    state = {name: earlier.state[name] for name in backbone}
    for name in own.keys() - state.keys():
        state[name] = own[name].clone()
        if name in earlier.state:
            state[name][new] = earlier.state[name][old]
    student.load_state_dict(state)
