"""images.npz: which bytes the validation and test images were when they were answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from dhox.artefacts.arrays import Array

IMAGES_FILE = "images.npz"


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageHashes:
    """SHA-256 of the encoded images: V of validation, T of test, by name. None where a run has none."""

    val_names: Annotated[np.ndarray, Array("str", "V")] | None = None
    val_sha256: Annotated[np.ndarray, Array("uint8", "V 32")] | None = None
    test_names: Annotated[np.ndarray, Array("str", "T")] | None = None
    test_sha256: Annotated[np.ndarray, Array("uint8", "T 32")] | None = None

    @classmethod
    def of(cls, val: dict[str, str], test: dict[str, str]) -> ImageHashes:
        """From name -> hexadecimal SHA-256."""
        return cls(val_names=_names(val), val_sha256=_digests(val), test_names=_names(test), test_sha256=_digests(test))

    def by_name(self, split: Literal["val", "test"]) -> dict[str, str]:
        """Name -> hexadecimal SHA-256."""
        names, digests = getattr(self, f"{split}_names"), getattr(self, f"{split}_sha256")
        if names is None or digests is None:
            return {}
        return {name: digest.tobytes().hex() for name, digest in zip(names.tolist(), digests, strict=True)}


def _names(hashes: dict[str, str]) -> np.ndarray | None:
    return np.array(list(hashes), np.str_) if hashes else None


def _digests(hashes: dict[str, str]) -> np.ndarray | None:
    if not hashes:
        return None
    return np.frombuffer(bytes.fromhex("".join(hashes.values())), np.uint8).reshape(-1, 32)
