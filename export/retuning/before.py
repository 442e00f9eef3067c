"""The export to be retuned, read whole."""

from __future__ import annotations

from dataclasses import dataclass

from dhox.artefacts.golden import Golden
from dhox.artefacts.heads import Heads
from dhox.artefacts.ledger import Ledger
from dhox.artefacts.logits import Logits
from dhox.models.export_directory import Export


@dataclass(frozen=True)
class Before:
    """The export to be retuned, read whole; `models`: content by file name."""

    export: Export
    heads: Heads
    val: Logits
    golden: Golden
    ledger: Ledger
    models: dict[str, bytes]


def read_whole(export: Export) -> Before:
    """Every file of an export, checked."""
    models = {entry.file: export.model(entry).read_bytes() for entry in export.manifest.artefacts}
    return Before(export, export.heads(), export.validation(), export.golden(), export.ledger(), models)
