"""The user's own OpenSSH client as a connection: one login, commands with streams, failures as one clear message."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from dhox.errors import DhoxError, UsageError

SSH = "DHOX_SSH"  # environment variable: the client and options of its own, such as "ssh -F FILE"
OPTIONS = {
    "BatchMode": "yes",  # nothing asks: what needs an answer fails, and says so
    "ConnectTimeout": "15",
    "ServerAliveInterval": "10",  # with the count: a lost link is noticed after 30 seconds
    "ServerAliveCountMax": "3",
    "LogLevel": "ERROR",
    "ClearAllForwardings": "yes",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "ControlPersist": "no",
}
LINK_FAILED = 255  # ssh's exit status where it failed itself
LONGEST_SOCKET = 80  # bytes; sun_path holds 104 or 108, and ssh appends 17 of its own while it opens the socket
# A name of these could be an option, or code for the shell of a ProxyCommand.
NO_HOST = re.compile(r"^[-@]|@-|@$|[\s\x00-\x1f\x7f$;|&`'\"\\()<>]")
# C0 and C1 control characters, which a terminal obeys (tab and new line stay), and halves of surrogate pairs.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
# What ssh says, what it means, and what to do.
FAILURES = [
    (
        r"Could not resolve hostname", "no host of this name is known (SAID)",
        "Check the name, or add it to ~/.ssh/config.",
    ),
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED", "its host key is not the one that you trusted",
        "If the board was flashed anew, remove the old key with `ssh-keygen -R NAME`, then connect once with ssh and "
        "compare the new key; if not, somebody may be listening.",
    ),
    (
        r"Host key verification failed", "its host key is not known here yet",
        "Connect once with ssh, compare the key, and accept it.",
    ),
    (
        r"Permission denied|Too many authentication failures", "it refused your key (SAID)",
        "dhox never asks for a password: put your key there with `ssh-copy-id HOST`, or load it with ssh-add.",
    ),
    (
        r"Connection refused", "nothing listens on its ssh port (SAID)",
        "Start sshd there, or give the port in ~/.ssh/config.",
    ),
    (
        r"timed out|No route to host|Network is unreachable|Host is down", "it cannot be reached (SAID)",
        "Check that it is switched on and in this network.",
    ),
    (
        r"Bad configuration option|bad configuration options|no argument after keyword",
        "your ssh configuration is refused (SAID)", "Mend it; `ssh HOST` shows the same.",
    ),
]  # fmt: skip


def check_host(host: str) -> str:
    """The host as ssh takes it (name, user@name or ssh://user@name:port), or UsageError.

    A name can never be read as an option or by a shell, and holds no control character or space.
    """
    if not host or NO_HOST.search(host):
        raise UsageError(f"--host {host!r} is no host name.", "Write for example --host user@orin, as for ssh.")
    return host


def client() -> list[str]:
    """The ssh client's words: $DHOX_SSH, else ssh from the path. Raises DhoxError where there is none."""
    try:
        words = shlex.split(os.environ.get(SSH, "")) or ["ssh"]
    except ValueError as err:
        raise DhoxError(f"{SSH} cannot be read ({err}).", f'Write for example {SSH}="ssh -F FILE".') from err
    if shutil.which(words[0]) is None:
        raise DhoxError(f"{words[0]} is not installed here.", "Install OpenSSH's client (apt install openssh-client).")
    return words


def printable(text: str) -> str:
    """Text of another machine without what a terminal would obey, or what is no Unicode."""
    return CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def why(host: str, said: str, stood: bool) -> DhoxError:
    """The failure that ssh's own words (its stderr) stand for, as one message. `stood`: there was a login before it."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for pattern, meaning, to_do in FAILURES:
        found = [line for line in lines if re.search(pattern, line)]
        if found:
            advice = to_do
            for name, value in (("HOST", host), ("NAME", host.rpartition("@")[2])):
                advice = advice.replace(name, shlex.quote(value))
            return DhoxError(f"{host}: {meaning.replace('SAID', found[-1])}.", f"{advice}")
    said = f" ({lines[-1]})" if lines else ""
    if not stood:
        return DhoxError(f"{host}: no login by ssh came about{said}.", f"Check it with `ssh {shlex.quote(host)}`.")
    return DhoxError(
        f"The connection to {host} was lost{said}.",
        "Run the same command again: what was copied is still there, and the board ends what it was running.",
    )


class Session:
    """One remote command: its `stdin` and `stdout` are streams, what it and ssh wrote to stderr is kept aside."""

    def __init__(self, words: list[str]) -> None:
        self.said = tempfile.TemporaryFile()  # noqa: SIM115
        # A process group of its own: Ctrl-C here must not cut the link before the other end has finished.
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, start_new_session=True
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin: IO[bytes] = self.process.stdin
        self.stdout: IO[bytes] = self.process.stdout

    def stderr(self) -> str:
        """What was written to stderr so far."""
        self.said.seek(0)
        # ssh ends its own lines with \r\n.
        return printable(self.said.read().decode(errors="replace").replace("\r\n", "\n"))

    def end(self, seconds: float = 10) -> int:
        """Close the streams and wait for the exit status; after `seconds` the local ssh is killed."""
        for stream in (self.stdin, self.stdout):
            try:
                stream.close()
            except OSError:  # a broken pipe: the last bytes had no reader
                continue
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Connection:
    """A login on a host, shared by every command that is started over it; a context manager.

    The first ssh logs in and serves the others over a socket in a private folder. It runs `cat` there, whose input ends
    with this process, whatever ends it. Where a server refuses shared sessions, ssh logs in for each command.
    Raises DhoxError with the reason where the login fails.
    """

    def __init__(self, host: str) -> None:
        self.host = check_host(host)
        folder = tempfile.mkdtemp(prefix="dhox-")
        if len(os.fsencode(folder)) + 2 > LONGEST_SOCKET:
            Path(folder).rmdir()
            folder = tempfile.mkdtemp(prefix="dhox-", dir="/tmp")
        self.folder = Path(folder)
        self.login: Session | None = None

    def words(self, master: bool, command: tuple[str, ...]) -> list[str]:
        """The local command line. ssh joins remote words with spaces for the login shell, so each one is quoted."""
        options = OPTIONS | {"ControlMaster": "yes" if master else "no"}
        socket = str(self.folder / "s").replace("%", "%%")  # ssh expands %-signs
        return [
            *client(),
            *(word for key, value in options.items() for word in ("-o", f"{key}={value}")),
            "-S", socket, "--", self.host, *(shlex.quote(word) for word in command),
        ]  # fmt: skip

    def __enter__(self) -> Connection:
        mark = f"dhox-{secrets.token_hex(8)}".encode()
        try:
            self.login = Session(self.words(True, ("cat",)))
            try:
                self.login.stdin.write(mark + b"\n")
                self.login.stdin.flush()
            except BrokenPipeError:
                pass  # ssh ended already: the lines below say why
            # A shell may greet first.
            if not any(line.strip() == mark for line in self.login.stdout):
                self.login.end()
                raise why(self.host, self.login.stderr(), stood=False)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, *command: str) -> Session:
        """Start one remote command; its words arrive there as they are, whatever they hold (but NUL)."""
        return Session(self.words(False, command))

    def close(self) -> None:
        """Log out."""
        if self.login is not None:
            self.login.end()
        shutil.rmtree(self.folder, ignore_errors=True)
