"""A system root with a Jetson in it: files from recordings, and small scripts in place of the board's commands."""

from __future__ import annotations

from pathlib import Path

RECORDINGS = Path(__file__).parent / "jetson"
BOARD = RECORDINGS / "agx_thor_r38.2.0"

# Modes 0 and 3 of the AGX Orin recording gate the same units; 1 and 2 gate others.
NVPMODEL = """#!/bin/sh
root=$(dirname "$0")/../..
case "$1" in
-q) mode=$(cat "$root/mode"); name=$(sed -n "s/.*POWER_MODEL: ID=$mode NAME=//p" "$root/modes")
    [ -n "$name" ] || { echo "NVPM ERROR: no mode"; exit 255; }
    printf 'NVPM WARN: fan mode is not set!\\nNV Power Mode: %s\\n%s\\n' "$name" "$mode" ;;
-p) cat "$root/modes" ;;
-m) echo "$2" >> "$root/asked"
    [ -e "$root/slow_$2" ] && sleep "$(cat "$root/slow_$2")"
    if [ -e "$root/reboots_$2" ]; then
        printf 'NVPM WARN: Reboot required for changing to this power mode: %s\\n' "$2"
        echo "NVPM WARN: DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:"
        read answer && touch "$root/rebooted"
        echo "NVPM ERROR: optMask is 1, no request for power mode"
    elif [ -e "$root/ignores_$2" ]; then :
    else echo "$2" > "$root/mode"; fi ;;
esac
"""
SUDO = """#!/bin/sh
root=$(dirname "$0")/../..
[ "$1" = "-n" ] || exit 99
[ -e "$root/password" ] && { echo "sudo: a password is required" >&2; exit 1; }
shift
exec "$@"
"""


def write_command(root: Path, name: str, script: str) -> None:
    """Put an executable where the board has it."""
    path = root / "usr/sbin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script, encoding="utf-8")
    path.chmod(0o755)


def write_file(root: Path, path: str, content: str | bytes) -> None:
    """Put a file at an absolute path of the board."""
    place = root / path.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content if isinstance(content, bytes) else content.encode())


def recorded_board(root: Path, folder: str) -> Path:
    """The release file, the device tree and the power mode of a recording, as far as it has them."""
    for name, path in (("nv_tegra_release", "/etc/nv_tegra_release"), ("model", "/proc/device-tree/model"), ("compatible", "/proc/device-tree/compatible")):  # fmt: skip
        if (RECORDINGS / folder / name).exists():
            write_file(root, path, (RECORDINGS / folder / name).read_bytes())
    for name, command in (("nvpmodel_q", "nvpmodel"), ("jetson_clocks_show", "jetson_clocks")):
        if (RECORDINGS / folder / name).exists():
            write_command(root, command, f"#!/bin/sh\ncat '{RECORDINGS / folder / name}'\n")
    return root


def board_with_modes(root: Path, mode: int = 3) -> Path:
    """A board whose power mode can be set, in mode 3, with a sudo that asks nothing."""
    recorded_board(root, "agx_orin_64gb")
    (root / "modes").write_text((RECORDINGS / "nvpmodel/agx_orin_p").read_text(), encoding="utf-8")
    (root / "mode").write_text(f"{mode}\n")
    write_command(root, "nvpmodel", NVPMODEL)
    write_command(root, "sudo", SUDO)
    return root
