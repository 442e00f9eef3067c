"""What torch.compile needs beside torch: a compiler, and Python's headers for the launchers that it writes."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

COMPILERS = {"cuda": ("CC", ("gcc", "clang")), "cpu": ("CXX", ("g++",))}  # by device: variable, programs
COMPILER_ADVICE = "install them: sudo apt install build-essential python3-dev"


def missing_for_compile(device: str) -> str | None:
    """What is not there of what torch.compile needs to train on `device` (cuda or cpu); None where all is.

    On CUDA Triton compiles a launcher for every kernel in C, on a CPU torch writes kernels in C++.
    """
    variable, programs = COMPILERS[device]
    if not (os.environ.get(variable) or any(shutil.which(program) for program in programs)):
        return f"a compiler ({' or '.join(programs)})"
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return None if headers.exists() else f"Python's headers ({headers})"
