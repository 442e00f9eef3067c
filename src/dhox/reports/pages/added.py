"""A class that joined a finished run, as sections: how well it is known, and what the old classes keep."""

from __future__ import annotations

from pathlib import Path

from dhox.artefacts.run import Added, Run
from dhox.evidence.statistics import paired_difference_interval
from dhox.reports.sections import Page, Section, cells, table
from dhox.reports.text import percent


def added_page(path: Path, run: Run) -> Page:
    """What `dhox add-class` prints."""
    added = run.added[-1]
    notes = tuple(f"Note: {note.rstrip('.')}." for note in run.notes[-2:])
    return Page(f"{path}: {added.name}", "", (added_section(added), Section(notes=notes)))


def added_section(added: Added) -> Section:
    """Recall of the new class, and the old classes before and after on the same images."""
    rows = [cells(f"recall of {added.name}", percent(added.recall), f"{added.n_images} new images, cross-fitted")]
    notes = []
    if (old := added.old) is not None:
        rows.append(cells("old classes, before", percent(old.before), f"{old.before.n} images of {old.images}"))
        rows.append(cells("old classes, after", percent(old.after), "the same images"))
        low, high = (100 * end for end in paired_difference_interval(old.gained, old.lost, old.before.n))
        drop = 100 * (old.after.accuracy - old.before.accuracy)
        notes.append(
            f"The old classes changed by {drop:+.1f} points (95 %: {low:+.1f} to {high:+.1f}): {old.lost} right "
            f"answers lost, {old.gained} gained."
        )
    caption = "Each new image is judged by heads that did not learn from it."
    return Section(
        f"The new class {added.name}", tables=table("|accuracy (95 % interval)|<of", rows, caption), notes=tuple(notes)
    )
