"""`dhox bench --power-modes`: the power modes of a Jetson in turn, and the original one again whatever happens."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from dhox.artefacts.machine import SetPowerMode
from dhox.artefacts.record import Kind, read_record, write_record
from dhox.bench.interrupts import Stop, ignored_signals, stopping_signals
from dhox.bench.machine_lock import one_at_a_time
from dhox.errors import DhoxError
from dhox.system.commands import Answer, ask, find_command
from dhox.system.environment import now
from dhox.system.jetson import is_jetson
from dhox.system.jetson_state import clocks_held, gpu_clock, parse_show
from dhox.system.nvpmodel import PowerMode, current_mode, power_modes

SECONDS = 60.0  # nvpmodel answers within a few
RESTORE = "dhox doctor --restore-power-mode"


class Sweep(Kind, kw_only=True):
    """power_mode.json: a sweep that has not restored the mode yet."""

    schema: Literal["dhox.power_mode/1"] = "dhox.power_mode/1"
    pid: int
    original: SetPowerMode
    started_at: str

    @property
    def running(self) -> bool:
        """Whether some process still holds `_only_one`."""
        try:
            with lock_file().open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


@contextlib.contextmanager
def power_mode_sweep(not_run: list[str]) -> Iterator[tuple[list[PowerMode], Iterator[PowerMode]]]:
    """Yields the power modes of this Jetson that it will try, and an iterator that sets each before it hands it out.

    Modes that need a reboot are left out, with one sentence each in `not_run`, and so are those that could not be set,
    as the iterator comes to them. The mode that is set comes first: nothing is changed before the second. It is set
    again at the end, after an error, and on SIGINT, SIGTERM and SIGHUP, which arrive as KeyboardInterrupt inside the
    block. A kill leaves a state file that `dhox doctor` finds. Raises DhoxError where there is no Jetson, no nvpmodel
    or no right to use it, where another sweep runs or an earlier one was killed, and where jetson_clocks holds the
    clocks. No other bench measures on this machine until the block ends.
    """
    if not is_jetson():
        raise DhoxError(
            "--power-modes: this machine is not a Jetson (its device tree names no NVIDIA Tegra).",
            "Leave the option out here, or run it on the board.",
        )
    with _only_one(), one_at_a_time():
        _refuse_left_over()
        modes, original = power_modes(), _mode_to_restore()
        _check_sudo(original)
        gating = next((mode.gating for mode in modes if mode.id == original.id), {})
        tried = [mode for mode in sorted(modes, key=lambda mode: mode.id != original.id) if mode.gating == gating]
        why = f"it gates other units of the GPU than {original.name}, which takes a reboot"
        not_run += [left_out(mode, why) for mode in modes if mode not in tried]
        with stopping_signals() as stop:
            try:
                kept = SetPowerMode(original.id, original.name)
                write_record(state_file(), Sweep(pid=os.getpid(), original=kept, started_at=now()))
                yield tried, _each_mode(tried, not_run, stop)
            finally:
                with ignored_signals():
                    restore(original)


def left_out(mode: PowerMode, why: str) -> str:
    """One line of what was not measured."""
    return f"power mode {mode.name} ({mode.id}) not run: {why}"


def _mode_to_restore() -> PowerMode:
    """The mode that is set. Raises DhoxError where it cannot be read, or where another one would change nothing."""
    original, why = current_mode()
    if original is None:
        raise DhoxError(
            f"--power-modes: the power mode that is set cannot be read ({why}), so it could not be restored.",
            "Leave --power-modes out, or set a mode with `sudo nvpmodel -m ID` first.",
        )
    if clocks_held(gpu_clock(), parse_show("")) == "on":
        raise DhoxError(
            "--power-modes: jetson_clocks holds the clocks, so that power modes would show nothing.",
            "Switch it off (sudo jetson_clocks --restore, or reboot), or leave --power-modes out.",
        )
    return original


def _each_mode(modes: list[PowerMode], not_run: list[str], stop: Stop) -> Iterator[PowerMode]:
    """Set and yield the modes one by one; none after a signal."""
    for mode in modes:
        if stop.signal is not None:
            not_run.append(left_out(mode, "interrupted"))
        elif (refused := _set_mode(mode)) is None:
            yield mode
        else:
            not_run.append(left_out(mode, refused))


def _set_mode(mode: PowerMode) -> str | None:
    """Set a mode and look whether it is set (nvpmodel can fail with status 0); None, or why it is not.

    nvpmodel asks before it reboots; nothing is on its standard input, which it takes for no.
    """
    set_now, _ = current_mode()
    if set_now is not None and set_now.id == mode.id:
        return None
    answer = _sudo_nvpmodel(mode)
    set_now, why = current_mode()
    if set_now is not None and set_now.id == mode.id:
        return None
    if "reboot" in answer.text.lower():
        return "nvpmodel would reboot for it"
    said = answer.text.strip().splitlines() or [why or f"{set_now.name if set_now else 'no mode'} is set after it"]
    return f"nvpmodel did not set it ({said[-1].strip()})"


def _sudo_nvpmodel(mode: PowerMode) -> Answer:
    """`nvpmodel -m ID` as root, without a question."""
    if find_command("sudo") is None and os.geteuid() == 0:  # in a container
        return ask("nvpmodel", "-m", str(mode.id), seconds=SECONDS)
    return ask("sudo", "-n", str(find_command("nvpmodel") or "nvpmodel"), "-m", str(mode.id), seconds=SECONDS)


def _check_sudo(original: PowerMode) -> None:
    """Raise DhoxError where `sudo -n nvpmodel` would ask for a password: setting the mode that is set shows it."""
    answer = _sudo_nvpmodel(original)
    if answer.code == 0:
        return
    said = (answer.text.strip().splitlines() or ["no answer"])[-1].strip()
    if not said.startswith("sudo"):
        raise DhoxError(
            f"--power-modes: nvpmodel cannot even set {original.name} ({original.id}), which is set ({said}).",
            f"Try `sudo nvpmodel -m {original.id}`, or leave --power-modes out.",
        )
    # No `*`: in sudoers it matches spaces too, and `-m 0 -f FILE` runs as root what FILE says.
    command = find_command("nvpmodel") or "/usr/sbin/nvpmodel"
    raise DhoxError(
        f"--power-modes sets modes by `sudo -n nvpmodel`, which this user may not do without a password ({said}).",
        "Let "
        f"an administrator add one line with `sudo visudo -f /etc/sudoers.d/nvpmodel`: {user()} ALL=(root) NOPASSWD: "
        f"{command} -m [0-9], {command} -m [0-9][0-9]",
    )


def user() -> str:
    """The name for the sudoers line."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"#{os.geteuid()}"


def restore(original: PowerMode) -> None:
    """Set the original mode and forget the state file. Raises DhoxError, and keeps the file, where that fails."""
    refused = _set_mode(original)
    if refused is not None:
        raise DhoxError(
            f"The power mode could not be set back to {original.name} ({original.id}): {refused}.",
            "Set it with: sudo "
            f"nvpmodel -m {original.id} (it may ask to reboot); then run {RESTORE}, which sees that it is set.",
        )
    state_file().unlink(missing_ok=True)


def state_file() -> Path:
    """$XDG_STATE_HOME/dhox/power_mode.json: there while a sweep runs, and after one that was killed."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(state) / "dhox/power_mode.json"


def lock_file() -> Path:
    """Beside the state file; locked while a sweep runs."""
    return state_file().with_suffix(".lock")


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    """Let no other process of this user set or restore modes; the kernel lets go, whatever ends this one.

    Held from before the mode to restore is read until it is set again. Raises DhoxError where another process holds it,
    and where there is no place for it.
    """
    path = lock_file()
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("a"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            other = left_over()
            raise DhoxError(
                f"Another --power-modes sweep runs here{f' (process {other.pid})' if other else ''}, and restores the "
                "mode at its end.",
                "Wait for it, or end it.",
            ) from err
        except OSError as err:
            raise DhoxError(
                f"Could not lock {path}: {err.strerror}.", "Set XDG_STATE_HOME to a folder of your own on a local disk."
            ) from err
        yield


def left_over() -> Sweep | None:
    """The sweep that a state file tells of; None without one. Raises DhoxError for a damaged file."""
    if not state_file().exists():
        return None
    try:
        return read_record(state_file(), Sweep)
    except DhoxError as err:
        raise DhoxError(err.reason, "Set the mode that you want with `sudo nvpmodel -m ID`, then delete it.") from err


def _refuse_left_over() -> None:
    """Raise DhoxError where an earlier sweep was killed: its original mode must not be lost. Within `_only_one`."""
    other = left_over()
    if other is not None:
        raise DhoxError(
            f"An earlier --power-modes sweep (started {other.started_at}) was killed before it restored the power mode "
            f"{other.original.name} ({other.original.id}).",
            f"Run `{RESTORE}` first.",
        )


def restore_left_over() -> PowerMode | None:
    """`dhox doctor --restore-power-mode`: the mode that was set again, None where nothing was left to restore."""
    if left_over() is None:
        return None
    with _only_one(), ignored_signals():
        other = left_over()
        if other is None:
            return None
        original = PowerMode(other.original.id, other.original.name)
        restore(original)
        return original
