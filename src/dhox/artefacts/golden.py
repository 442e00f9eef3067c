"""golden.npz: a few images with the input and the probabilities that every copy of the model must give for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from dhox.artefacts.arrays import Array
from dhox.artefacts.record import Count, NotNegative, Record, Share

GOLDEN_FILE = "golden.npz"
JPEG_TOLERANCE = 2  # of 255, between JPEG decoders


@dataclass(frozen=True)
class Golden:
    """Images as decoded, as the model takes them, and what it answers.

    `pixels`: all decoded images one after another, RGB; `sizes`: height and width of each. `input`: the images after
    preprocessing. `probs`: torch's. `jpeg`: one image as a JPEG file, and `jpeg_pixels` as it was decoded.
    """

    pixels: Annotated[np.ndarray, Array("uint8", "P")]
    sizes: Annotated[np.ndarray, Array("int64", "N 2", low=1, high=2**16)]
    input: Annotated[np.ndarray, Array("uint8", "N H W 3")]
    probs: Annotated[np.ndarray, Array("float32", "N C")]
    jpeg: Annotated[np.ndarray, Array("uint8", "J")]
    jpeg_pixels: Annotated[np.ndarray, Array("uint8", "JH JW 3")]

    def __post_init__(self) -> None:
        if not len(self.sizes) or 3 * int(self.sizes.prod(1).sum()) != len(self.pixels):
            raise ValueError(f"has {len(self.pixels)} bytes of pixels, which are not those of {len(self.sizes)} images")

    @property
    def decoded(self) -> list[np.ndarray]:
        """The decoded images, uint8 [height, width, 3] each."""
        ends = 3 * self.sizes.prod(1).cumsum()
        parts = np.split(self.pixels, ends[:-1])
        return [part.reshape(*size, 3) for part, size in zip(parts, self.sizes.tolist(), strict=True)]


class GoldenResult(Record, kw_only=True):
    """What a golden check found of `n` images.

    `jpeg_difference`: of 255. `largest_difference` is of a probability, None where one is not finite. `outputs_passed`:
    the model answers the stored inputs as it should, whatever decoding and preprocessing give here; `passed`: all held.
    """

    n: Count
    input_equal: bool
    jpeg_difference: Count
    largest_difference: NotNegative | None
    decided_argmax_equal: bool
    agreement: Share
    outputs_passed: bool
    passed: bool

    @property
    def jpeg_passed(self) -> bool:
        """Whether JPEG files are decoded here as they should be."""
        return self.jpeg_difference <= JPEG_TOLERANCE

    @property
    def failure(self) -> str:
        """What did not hold, outputs first; empty where all did."""
        difference = self.largest_difference
        largest = "not finite" if difference is None else f"{difference:.1e}"
        return "; ".join(
            words
            for held, words in (
                (self.outputs_passed, f"outputs: largest difference of a probability {largest}, same label on "
                                      f"{100 * self.agreement:.1f} % of {self.n} images"),
                (self.input_equal, "preprocessing: another model input than on the exporting machine"),
                (self.jpeg_passed, f"JPEG decoder: pixels differ by up to {self.jpeg_difference} of 255"),
            )
            if not held
        )  # fmt: skip
