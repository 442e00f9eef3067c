"""The two tensors of a classifier: how pixels become its input, and its output becomes probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import numpy as np

from dhox.artefacts.common import Preprocessing
from dhox.artefacts.manifest import InputKind
from dhox.data.images import normalise
from dhox.errors import DhoxError
from dhox.evidence.statistics import softmax

INPUT_KINDS: tuple[InputKind, ...] = get_args(InputKind)
FOREIGN_KINDS = ("float-nhwc", "uint8-nchw")  # of models of other tools
FRAMES = "frames"  # of camera files: raw frames, as they are


def input_of(kind: str, size: int) -> tuple[tuple[int, ...], str]:
    """(shape of one image of `size` x `size` pixels, dtype) as an export's graph takes it; `kind`: of INPUT_KINDS."""
    return ((size, size, 3), "uint8") if kind == "uint8-nhwc" else ((3, size, size), "float32")


@dataclass(frozen=True)
class Tensors:
    """What a graph takes and gives; the defaults are those of an export.

    `kind`: of the input, one of INPUT_KINDS or FOREIGN_KINDS, or FRAMES, and then `graph_input` takes frames; `dtype`:
    of float inputs. `bgr`: it takes blue first. `logits`: it gives logits, not probabilities. `fixed_batch`: the only
    batch size that it takes.
    """

    preprocessing: Preprocessing
    kind: str = "uint8-nhwc"
    input: str = "image"
    output: str = "probs"
    dtype: str = "float32"
    bgr: bool = False
    logits: bool = False
    fixed_batch: int | None = None

    def graph_input(self, pixels: np.ndarray) -> np.ndarray:
        """Preprocessed pixels uint8 [B, crop, crop, 3] as the graph takes them; DhoxError for an unknown kind."""
        if self.bgr:
            pixels = np.ascontiguousarray(pixels[..., ::-1])
        if self.kind in ("uint8-nhwc", FRAMES):
            return pixels
        if self.kind == "uint8-nchw":
            return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        if self.kind == "float-nchw-255":
            return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32)
        if self.kind not in {"float-nchw", "float-nhwc"}:
            known = ", ".join(INPUT_KINDS + FOREIGN_KINDS)
            raise DhoxError(f"The input kind {self.kind!r} is unknown (known: {known}).", "Export again.")
        taken = normalise(pixels, self.preprocessing)
        if self.kind == "float-nhwc":
            taken = np.ascontiguousarray(taken.transpose(0, 2, 3, 1))
        return taken.astype(self.dtype, copy=False)

    def batches(self, pixels: np.ndarray, size: int) -> Iterator[np.ndarray]:
        """Preprocessed pixels uint8 [N, crop, crop, 3] as the graph takes them, at most `size` at a time."""
        for start in range(0, len(pixels), size):
            yield self.graph_input(pixels[start : start + size])

    def probs(self, output: np.ndarray) -> np.ndarray:
        """The graph's output [B, C] as probabilities float32 [B, C]."""
        return (softmax(output) if self.logits else output).astype(np.float32, copy=False)
