"""Stage 2: fold the heads and write ONNX files, with the evidence, into an export directory.

    result = dhox.export("runs/photos", fp16=True)
    result.export, result.manifest, result.ledger

Options have the names of `dhox export --help`, with _ for -; `help(dhox.export.options)` and docs/reference.md list
them. Everything is imported when the stage is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dhox.export.options import ExportOptions
from dhox.options.package import make_callable, options_of

if TYPE_CHECKING:
    from dhox.artefacts.manifest import ExportResult


def export(run: str | Path, out: str | Path | None = None, **options: Any) -> ExportResult:
    """Export a run directory, by default to RUN/export.

    Raises UsageError for wrong options, DhoxError for a run that cannot be exported.
    """
    given = options_of(ExportOptions, options)
    from dhox.export.run import export as run_export

    return run_export(Path(run), Path(out) if out is not None else Path(run) / "export", given)


make_callable(__name__, export, ExportOptions)
