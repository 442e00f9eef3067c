"""Headers of caches: shards.json of teacher embeddings and packed images, their files' headers, scans, checkpoints."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from dhox.artefacts.record import AtLeastOne, Count, Kind, Record, Sha256

SHARDS_FILE = "shards.json"
KEY_BYTES = 16

Plain = bool | int | float | str | None
Recipe = dict[str, Plain | list[Plain | list[Plain]]]  # what rows depend on besides their images


RowType = Literal["float16", "uint8"]


class RowKind(Record, kw_only=True):
    """What rows are: the same in shards.json and in every file beside it."""

    about: Annotated[dict[str, str], Meta(description="for readers, never compared")]
    recipe: Annotated[Recipe, Meta(description="what the rows depend on besides their images")]
    row_shape: Annotated[list[AtLeastOne], Meta(min_length=1)]
    dtype: RowType

    def __post_init__(self) -> None:
        if not isinstance(self.recipe.get("rows"), str):
            raise ValueError("recipe.rows does not say what the rows are")

    @property
    def rows(self) -> str:
        """What the rows are."""
        return str(self.recipe["rows"])

    def differences(self, other: RowKind) -> list[str]:
        """Fields of recipe, shape and type in which `other` holds other rows: `name is X there and Y here`."""
        here, there = self._compared(), other._compared()
        return [
            f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
            for name in sorted(here.keys() | there.keys())
            if here.get(name) != there.get(name)
        ]

    def _compared(self) -> Recipe:
        """What two files must have in common to hold the same rows, as JSON keeps it."""
        whole = self.recipe | {"row_shape": [*self.row_shape], "dtype": self.dtype}
        return msgspec.json.decode(msgspec.json.encode(whole), type=Recipe)


class Shards(RowKind, Kind, kw_only=True):
    """shards.json: what the rows of a directory are."""

    schema: Literal["dhox.shards/1"] = "dhox.shards/1"
    files: Annotated[dict[str, Count], Meta(description="file -> its rows, as far as they were listed")]


class ShardHeader(RowKind, kw_only=True):
    """What a file of rows says of itself, under `dhox` in its safetensors metadata."""

    keys: Annotated[str, Meta(pattern="^([0-9a-f]{32})*$", description="hexadecimal, 16 bytes per row")]
    sha256: Annotated[Sha256, Meta(description="of the rows' bytes")]


# A line of scan-*.jsonl: name, stamp, content hash (both in base64), width and height of a readable image.
ScanRow = tuple[
    str, Annotated[bytes, Meta(min_length=8, max_length=8)], Annotated[bytes, Meta(min_length=32, max_length=32)],
    AtLeastOne, AtLeastOne,
]  # fmt: skip


class EpochMetrics(Record):
    """The metrics of one epoch, counted from 1."""

    epoch: AtLeastOne
    metrics: dict[str, float]


class History(Record):
    """What a training had measured when its checkpoint was written."""

    epochs: list[EpochMetrics] = msgspec.field(default_factory=list)
