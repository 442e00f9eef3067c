from __future__ import annotations

import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import named, refuses

from dhox.bench.remote.ssh import OPTIONS, Connection, check_host, client, printable, why
from dhox.errors import UsageError


@pytest.mark.parametrize(
    "host", ["orin", "user@orin", "ssh://user@orin:2222", "10.0.0.7", "fe80::1%eth0", "user@orin.local"]
)
def test_hosts_of_ssh_are_taken_as_they_are(host: str) -> None:
    assert check_host(host) == host


@pytest.mark.parametrize(
    "host",
    [
        "",
        "-oProxyCommand=touch x",
        "-",
        "user@",
        "@orin",
        "user@-oProxyCommand=x",
        "a b",
        "a\nb",
        "a\0b",
        "a\x7fb",
        "$(touch x)",
        "a;b",
        "a|b",
        "a&b",
        "`a`",
        "it's",
        'a"b',
        "user name@orin",
    ],
)
def test_what_could_be_an_option_is_no_host(host: str) -> None:
    with refuses(f"--host {host!r}", at="bench.remote.ssh.check_host", kind=UsageError):
        check_host(host)


@given(st.text(max_size=20))
def test_no_accepted_host_can_be_an_option_or_two_words(host: str) -> None:
    try:
        taken = check_host(host)
    except UsageError:
        return
    assert taken == host
    assert not host.startswith("-")
    assert len(host.split()) == 1
    assert not set(host) & set("$;|&`'\"\\")
    assert host.isprintable() or not any(ord(letter) < 32 for letter in host)


def test_the_client_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DHOX_SSH", "ssh -F 'a b'")
    assert client() == ["ssh", "-F", "a b"]
    monkeypatch.setenv("DHOX_SSH", "no-such-client")
    with refuses("no-such-client", at="bench.remote.ssh.client", fix="apt install openssh-client"), Connection("orin"):
        pass


def test_the_host_stands_behind_the_end_of_options() -> None:
    words = Connection("orin").words(False, ("a b", "-x"))
    assert words[-4:] == ["--", "orin", "'a b'", "-x"]
    assert "BatchMode=yes" in words


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("ssh: connect to host orin port 22: No route to host", r"orin: .*\(ssh: connect.*network"),
        ("nvidia@orin: Permission denied (publickey).", "`ssh-copy-id nvidia@orin`"),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.", "`ssh-keygen -R orin`"),
        ("client_loop: send disconnect: Broken pipe", "lost .client_loop.*same command again"),
        ("", "nvidia@orin was lost"),
        ("{odd} %s", "lost .{odd} %s"),
    ],
)  # fmt: skip
def test_what_ssh_says_becomes_one_message(said: str, meaning: str) -> None:
    host = "nvidia@orin"
    message = str(why(host, said, stood=True))
    assert "\n" not in message
    assert re.search(meaning, message), message


@pytest.mark.parametrize("said", ["Connection closed by remote host", "hostname contains invalid characters", ""])
def test_a_login_that_never_stood_was_not_lost(said: str) -> None:
    message = str(why("nvidia@orin", said, stood=False))
    assert all(named(fact, message) for fact in ("nvidia@orin", "login", "`ssh nvidia@orin`"))
    assert said in message


def test_a_setting_that_is_no_command_line_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DHOX_SSH", 'ssh "')
    with refuses("DHOX_SSH", "No closing quotation", at="bench.remote.ssh.client", fix="DHOX_SSH"):
        client()


@pytest.mark.skipif(shutil.which("ssh") is None, reason="needs OpenSSH's client")
def test_what_the_user_forwards_is_not_forwarded_to_the_board(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("Host *\n  ForwardAgent yes\n  ForwardX11 yes\n  RemoteForward 9999 localhost:1\n")
    words = ["ssh", "-G", "-F", str(tmp_path / "config"), *Connection("orin").words(False, ())[1:]]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    settings = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert (settings["forwardagent"], settings["forwardx11"], settings["clearallforwardings"]) == ("no", "no", "yes")
    assert not {"StdinNull", "ForkAfterAuthentication"} & OPTIONS.keys()  # clients before OpenSSH 8.7 refuse them


@given(st.text())
def test_text_of_a_board_can_be_printed_and_commands_no_terminal(text: str) -> None:
    shown = printable(text)
    assert len(shown) == len(text)
    assert not any(unicodedata.category(letter) in {"Cc", "Cs"} and letter not in "\t\n" for letter in shown)
    shown.encode()
    assert printable(shown) == shown


def test_escape_sequences_lose_their_escape() -> None:
    assert printable("\x1b]0;title\x07\x9b31m\ud800\u00fc\t") == "\ufffd]0;title\ufffd\ufffd31m\ufffd\u00fc\t"
