"""How long `dhox --help` takes, against bare Python: claimed under 0.3 s.

python benchmarks/startup.py
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 15


def seconds(command: list[str]) -> float:
    """Wall time of one process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "dhox --help": [str(Path(sys.executable).with_name("dhox")), "--help"],
    }
    samples: dict[str, list[float]] = {name: [] for name in commands}
    for round_number in range(RUNS + 1):
        for name, command in commands.items():
            taken = seconds(command)
            if round_number > 0:  # the first round warms the disk cache
                samples[name].append(taken)
    print(f"{platform.platform()}, Python {platform.python_version()}, {RUNS} runs, interleaved")
    for name, found in samples.items():
        print(f"{name:16} median {statistics.median(found):.3f} s, min {min(found):.3f}, max {max(found):.3f}")
    ratios = [slow / bare for bare, slow in zip(*samples.values(), strict=True)]
    print(f"ratio            median {statistics.median(ratios):.1f}")


if __name__ == "__main__":
    main()
