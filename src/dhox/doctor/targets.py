"""`dhox doctor --target BOARD@JETPACK`: what a board can take, as plain data with its sources, before anyone trains.

What no source settles is said to be unverified. On the board itself ask `dhox doctor`: it looks instead of knowing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from dhox.errors import UsageError, dhox_command
from dhox.runtimes.tensorrt_api import OLDEST, numbers
from dhox.system.jetpack import JETPACKS, JetPack


@dataclass(frozen=True)
class Board:
    """A Jetson module. `dla_cores`: of its chip; `jetpacks`: major releases, and the first one that knows the board."""

    name: str
    module: str
    soc: str
    compute_capability: str
    dla_cores: int
    oldest: str
    newest: str
    memory: str


# Modules, chips and DLA: NVIDIA's module pages and Jetson Linux Developer Guides. Orin Nano has no DLA, nor has Thor
# (docs.nvidia.com/deeplearning/tensorrt, hardware support). JetPack 7.2 brought Orin to JetPack 7
# (rbonghi/jetson_stats#864, #867; OE4T/meta-tegra#2224).
BOARDS = (
    Board("nano", "Jetson Nano", "tegra210", "5.3", 0, "4.6", "4.6.6", "4 GB"),
    Board("xavier-nx", "Jetson Xavier NX", "tegra194", "7.2", 2, "4.6", "5.1.5", "8 or 16 GB"),
    Board("agx-xavier", "Jetson AGX Xavier", "tegra194", "7.2", 2, "4.6", "5.1.5", "32 or 64 GB"),
    Board("orin-nano", "Jetson Orin Nano", "tegra234", "8.7", 0, "5.1.1", "7.2.1", "4 or 8 GB"),
    Board("orin-nx", "Jetson Orin NX", "tegra234", "8.7", 2, "5.1", "7.2.1", "8 or 16 GB"),
    Board("agx-orin", "Jetson AGX Orin", "tegra234", "8.7", 2, "5.0.2", "7.2.2", "32 or 64 GB"),
    Board("thor", "Jetson AGX Thor (T5000)", "tegra264", "11.0", 0, "7.0", "7.2.2", "128 GB"),
)
# Precisions by compute capability: support matrices below docs.nvidia.com/deeplearning/tensorrt.
PRECISIONS = {
    "5.3": ("fp32", "fp16"),
    "7.2": ("fp32", "fp16", "int8"),
    "8.7": ("fp32", "fp16", "bf16", "int8"),
    "11.0": ("fp32", "fp16", "bf16", "int8", "fp8", "fp4"),
}
# By TensorRT before 10, as far as docs/operators.md of onnx/onnx-tensorrt was read.
NEWEST_OPSET: dict[tuple[int, ...], int] = {(8, 0): 13, (8, 2): 13, (8, 5): 17}
OURS = "dhox writes opset 18 (int8: 19), IR 10"


def parse_target(text: str) -> tuple[Board, JetPack]:
    """`orin-nano@jp6.2` as its board and JetPack. Raises UsageError, which lists the known ones, for another text."""
    name, _, release = text.strip().lower().partition("@")
    boards = {board.name: board for board in BOARDS}
    if name not in boards:
        known = ", ".join(f"{board.name}@jp{board.oldest} ... jp{board.newest}" for board in BOARDS)
        raise UsageError(f"--target {text}: no board is called {name!r}.", f"Use one of: {known}.")
    board = boards[name]
    found = re.fullmatch(r"(?:jp|jetpack)?(\d+(?:\.\d+)*)", release)
    asked = [*numbers(found[1]), 0, 0][:3] if found else []  # 5.1 and 5.1.0 are the same
    jetpack = next((one for one in JETPACKS if [*numbers(one.version), 0, 0][:3] == asked), None)
    if jetpack is None or not runs(board, jetpack):
        what = f"{release!r} is no JetPack of {name} that dhox knows" if release else "it names no JetPack"
        raise UsageError(f"--target {text}: {what}.", f"Use one of: {', '.join(targets_of(board))}.")
    return board, jetpack


def runs(board: Board, jetpack: JetPack) -> bool:
    """Whether a JetPack is for a board. JetPack 7.0 and 7.1 are for Thor alone."""
    inside = numbers(board.oldest) <= numbers(jetpack.version) <= numbers(board.newest)
    return inside and not (board.name != "thor" and jetpack.version in {"7.0", "7.1"})


def targets_of(board: Board) -> list[str]:
    """Every target of a board, as --target takes them."""
    return [f"{board.name}@jp{jetpack.version}" for jetpack in JETPACKS if runs(board, jetpack)]


def describe_target(text: str) -> dict[str, Any]:
    """What a board with a JetPack can take. Plain JSON; sentences where a value alone would mislead.

    `supported`: whether dhox builds and runs TensorRT engines there; `advice`: what to do; `unverified`: what no source
    settles. Raises UsageError for an unknown target.
    """
    board, jetpack = parse_target(text)
    version = numbers(jetpack.tensorrt)
    supported = version[:2] >= OLDEST
    dla, dla_note = _dla_support(board, version)
    precisions = [name for name in PRECISIONS[board.compute_capability] if name in {"fp32", "fp16", "bf16", "int8"}]
    return {
        "target": f"{board.name}@jp{jetpack.version}",
        "supported": supported,
        "board": board.module,
        "soc": board.soc,
        "compute_capability": board.compute_capability,
        "memory": f"{board.memory}, shared by GPU and CPU",
        "jetpack": jetpack.version,
        "l4t": list(jetpack.l4t),
        "ubuntu": jetpack.ubuntu,
        "python": jetpack.python,
        "cuda": jetpack.cuda,
        "tensorrt": jetpack.tensorrt,
        "tensorrt_route": tensorrt_route(board, jetpack, version),
        "strong_typing": strong_typing(version),
        "dla": dla,
        "dla_note": dla_note,
        "precisions": precisions,
        "precisions_note": precisions_note(board),
        "onnx": _onnx_limit(version),
        "onnxruntime": _onnxruntime_route(jetpack),
        "environment": environment(jetpack),
        "export": _export_commands(supported, precisions, dla),
        "advice": advice(board, supported),
        "unverified": [*jetpack.unverified, *_open_points(board, jetpack, version)],
    }


def tensorrt_route(board: Board, jetpack: JetPack, version: tuple[int, ...]) -> str:
    """Which TensorRT of which major release, and where it comes from."""
    if version[0] < 10:
        return f"TensorRT {jetpack.tensorrt} of this JetPack; no 10 or 11 is made for it"
    if jetpack.version.startswith("6"):
        return "TensorRT 10 of JetPack (apt: python3-libnvinfer); TensorRT 11 is not made for JetPack 6"
    words = "TensorRT 10 of JetPack (apt: python3-libnvinfer)"
    if board.name in {"agx-orin", "thor"}:
        # docs.nvidia.com/deeplearning/tensorrt, release notes 11.4.1 and 10x-to-11x-jetson
        return f"{words}; TensorRT 11.4.1 and later (Linux SBSA package) from JetPack 7.2.2 on"
    return f"{words}; TensorRT 11 names AGX Orin and Thor only"


def strong_typing(version: tuple[int, ...]) -> str:
    """Whether a network computes in the precision that its file states."""
    if version[:2] < OLDEST:
        return "no: TensorRT chooses precisions by builder flags"
    if version[:2] < (10, 12):
        return (
            "yes (the flag is there since 10.3, solid since 10.12): dhox proves the engine's precision after each build"
        )
    return "yes"


def _dla_support(board: Board, version: tuple[int, ...]) -> tuple[bool, str]:
    """Whether TensorRT uses the board's DLA there.

    docs.nvidia.com/deeplearning/tensorrt: 10.7 was the last 10.x with DLA, 11.0 to 11.3 have none, 11.4.1 has it again
    on AGX Orin with JetPack 7.2.2.
    """
    if board.dla_cores == 0:
        return False, "this board has none"
    if version[:2] > (10, 7):
        again = "; TensorRT 11.4.1 uses it again, from JetPack 7.2.2 on" if board.name == "agx-orin" else ""
        return (
            False,
            f"the chip has {board.dla_cores} cores, this TensorRT does not use them (10.7 was the last){again}",
        )
    return True, f"{board.dla_cores} cores, for fp16 at one batch size; the rest falls back to the GPU"


def precisions_note(board: Board) -> str:
    """What a board computes slowly or not at all."""
    return {
        "5.3": "no int8 and no bf16 in hardware",
        "7.2": "no bf16",
        "8.7": "no fp8",
        "11.0": "also fp8 and fp4, which dhox does not write",
    }[board.compute_capability]


def _onnx_limit(version: tuple[int, ...]) -> str:
    """The newest ONNX that the parser takes.

    11: docs.nvidia.com/deeplearning/tensorrt, ONNX opset guide. 10.15: docs/operators.md of onnx/onnx-tensorrt. 10
    before that: not read, see `_open_points`.
    """
    if version[:2] in NEWEST_OPSET:
        return f"opset {NEWEST_OPSET[version[:2]]} in TensorRT's parser; {OURS}, which is newer"
    if version[0] < 10:
        return f"not known of this TensorRT's parser; {OURS}, which may be too new"
    newest = 24 if version >= (10, 15) else 20
    return f"opset {newest} in TensorRT's parser; {OURS}, which fits"


def _onnxruntime_route(jetpack: JetPack) -> str:
    """Which ONNX Runtime a board gets: on the CPU by pip, on the GPU by other ways."""
    if jetpack.python == "3.12":
        return (
            "CPU: pip install onnxruntime. GPU: not by pip: the ARM wheels of onnxruntime-gpu 1.29 to 1.31.1 hold "
            "kernels for compute capability 8.9, 9.0, 12.0 and 12.1 and no PTX, so none for Orin (8.7) and Thor (11.0)"
        )
    if jetpack.python == "3.10":
        return (
            "CPU: pip install onnxruntime (1.23.2 is the last for Python 3.10; it reads IR up to 11). GPU: the build "
            "of NVIDIA's Jetson AI Lab for this JetPack, or your own"
        )
    return f"none that dhox can use: Python {jetpack.python} is older than dhox's 3.10"


def environment(jetpack: JetPack) -> str:
    """How the Python environment on the board is made."""
    if jetpack.python not in {"3.10", "3.12"}:
        return f"dhox needs Python 3.10; the system's is {jetpack.python}, the only one that imports its TensorRT"
    limit = " and 'numpy<2' where the board's onnxruntime-gpu or TensorRT was built for numpy 1" * (
        jetpack.python == "3.10"
    )
    return (
        f"/usr/bin/python{jetpack.python} -m venv --system-site-packages ENV, then pip install dhox{limit}; never pip "
        "install tensorrt or onnxruntime-gpu there"
    )


def _export_commands(supported: bool, precisions: list[str], dla: bool) -> list[str]:
    """The commands that follow, on the workstation and then on the board."""
    best = [f"--{name}" for name in ("fp16", "int8") if name in precisions]
    if not supported:
        return ["dhox export RUN"]
    commands = [dhox_command("export", "RUN", *best), "dhox export EXPORT --tensorrt  (on the board)"]
    if dla:
        commands.append("dhox export EXPORT --tensorrt --dla 0 --batch 1  (on the board)")
    return [*commands, "dhox bench EXPORT --device jetson  (on the board)"]


def advice(board: Board, supported: bool) -> str:
    """What to do."""
    if supported:
        return "supported"
    if numbers(board.newest) >= (6, 1):
        return f"not supported: dhox needs TensorRT 10.3. Flash JetPack 6.1 or newer ({board.name}@jp6.2.1)."
    return (
        f"not supported: no JetPack for {board.module} has TensorRT 10.3. Use an Orin or Thor board, or run the ONNX "
        "file with another tool there (weakly typed: build with its fp16 flag)."
    )


def _open_points(board: Board, jetpack: JetPack, version: tuple[int, ...]) -> list[str]:
    """What no source that was read settles for this target."""
    points = []
    if version < (10, 15) and version[:2] not in NEWEST_OPSET:
        points.append("the newest opset of this TensorRT's parser (ask trtexec on the board)")
    if _dla_support(board, version)[0]:
        points.append("DLA with strongly typed networks before TensorRT 11.4.1 (dhox refuses where no layer fits)")
    if jetpack.version.startswith("7") and board.name in {"orin-nx", "orin-nano"}:
        points.append("TensorRT 11.4.1 on Orin NX and Orin Nano (its notes name AGX Orin and Thor)")
    return points
