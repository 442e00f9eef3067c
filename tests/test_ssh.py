from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dhox.errors import DhoxError, UsageError
from dhox.ssh import Connection, check_host, client, why


@pytest.mark.parametrize(
    "host", ["orin", "user@orin", "ssh://user@orin:2222", "10.0.0.7", "fe80::1%eth0", "user@orin.local"]
)
def test_hosts_of_ssh_are_taken_as_they_are(host: str) -> None:
    assert check_host(host) == host


@pytest.mark.parametrize(
    "host",
    ["", "-oProxyCommand=touch x", "-", "user@", "@orin", "user@-oProxyCommand=x", "a b", "a\nb", "a\0b", "a\x7fb"],
)
def test_what_could_be_an_option_is_no_host(host: str) -> None:
    with pytest.raises(UsageError, match="is no host name. Write for example --host user@orin"):
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
    assert host.isprintable() or not any(ord(letter) < 32 for letter in host)


def test_the_client_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DHOX_SSH", "ssh -F 'a b'")
    assert client() == ["ssh", "-F", "a b"]
    monkeypatch.setenv("DHOX_SSH", "no-such-client")
    with pytest.raises(DhoxError, match="no-such-client is not installed here"), Connection("orin"):
        pass


def test_the_host_stands_behind_the_end_of_options() -> None:
    words = Connection("orin").words(False, ("a b", "-x"))
    assert words[-4:] == ["--", "orin", "'a b'", "-x"]
    assert "BatchMode=yes" in words


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("ssh: connect to host orin port 22: No route to host", r"orin: it cannot be reached \(ssh: connect.*Check that it is switched on"),
        ("nvidia@orin: Permission denied (publickey).", "it refused your key.*`ssh-copy-id nvidia@orin`"),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.", "`ssh-keygen -R orin`"),
        ("client_loop: send disconnect: Broken pipe", "lost .client_loop.*Run the same command again"),
        ("", r"The connection to nvidia@orin was lost\. Run"),
        ("{odd} %s", "lost .{odd} %s"),
    ],
)  # fmt: skip
def test_what_ssh_says_becomes_one_message(said: str, meaning: str) -> None:
    host = "nvidia@orin"
    message = str(why(host, said))
    assert "\n" not in message
    assert re.search(meaning, message), message
