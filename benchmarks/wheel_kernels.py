"""For which GPUs a wheel holds kernels: python benchmarks/wheel_kernels.py WHEEL ...

    pip download --no-deps --only-binary=:all: --platform manylinux_2_34_aarch64 --python-version 3.12 onnxruntime-gpu

Reads the fat binaries in its libraries (magic 0xBA55ED50, as CUDA's fatbinary.h declares them): machine code (sm) by
compute capability, and PTX, which newer GPUs can compile.
"""

from __future__ import annotations

import struct
import sys
import zipfile
from collections import Counter
from pathlib import Path

MAGIC = struct.pack("<I", 0xBA55ED50)
HEADER = 16  # bytes: magic, version, size of the header, size of what follows
KINDS = {1: "PTX", 2: "sm"}


def kernels(library: bytes) -> Counter[str]:
    """How many entries of each kind and compute capability, such as {"sm 8.9": 308}."""
    found: Counter[str] = Counter()
    start = library.find(MAGIC)
    while start >= 0:
        header, size = struct.unpack_from("<HQ", library, start + 6)
        place, end = start + header, start + header + size
        if header != HEADER or end > len(library):
            start = library.find(MAGIC, start + 4)
            continue
        while place < end:
            kind, _, own_header, length = struct.unpack_from("<HHIQ", library, place)
            if kind not in KINDS:
                break
            capability = struct.unpack_from("<I", library, place + 28)[0]
            found[f"{KINDS[kind]} {capability // 10}.{capability % 10}"] += 1
            place += own_header + length
        start = library.find(MAGIC, end)
    return found


def main(wheels: list[str]) -> None:
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                found = kernels(archive.read(name)) if ".so" in name else None
                if found:
                    each = ", ".join(f"{kind}: {count}" for kind, count in sorted(found.items()))
                    print(f"{Path(wheel).name}: {Path(name).name}: {each}")


if __name__ == "__main__":
    main(sys.argv[1:])
