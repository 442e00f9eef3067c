"""The installed `dhox serve`: start, end, many requests at once, and what it refuses before it listens."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from loopback import call
from serving import TOKEN, Server, serving

import dhox
from dhox.serve.run import listen


@pytest.fixture(scope="module")
def export(line: Path) -> Path:
    return line / "runs/tiny/export"


@pytest.fixture(scope="module")
def image(line: Path) -> bytes:
    return sorted((line / "data/test/bag").iterdir())[0].read_bytes()


def half_sent(server: Server, image: bytes) -> http.client.HTTPConnection:
    """A request whose last byte has not come yet, once the server is at work on it."""
    before = in_flight(server)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest("POST", f"/predict?token={TOKEN}")
    connection.putheader("Content-Length", str(len(image)))
    connection.endheaders()
    connection.send(image[:-1])
    deadline = time.monotonic() + 60
    while in_flight(server) == before:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return connection


def in_flight(server: Server) -> int:
    text = server.request("GET", "/metrics")[2].decode()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("dhox_requests_in_flight ")))


def test_a_hundred_requests_at_once_are_all_answered(export: Path, image: bytes) -> None:
    expected = dhox.load(export, "cpu")(image)[0].max()
    with serving(export, "--device", "cpu") as server, ThreadPoolExecutor(100) as pool:
        found = list(pool.map(lambda _: server.request("POST", "/predict?top=1", image), range(100)))
        assert Counter(status for status, _, _ in found) == {200: 100}
        tops = {json.loads(body)["images"][0]["answers"][0]["top"][0]["probability"] for _, _, body in found}
        assert tops == {float(expected)}
        assert in_flight(server) == 1


def test_a_full_queue_says_when_to_come_again(export: Path, image: bytes) -> None:
    with serving(export, "--device", "cpu", "--queue", 1) as server:
        first = half_sent(server, image)
        status, headers, body = server.request("POST", "/predict", image)
        assert (status, headers["Retry-After"]) == (503, "1")
        assert json.loads(body)["fix"]
        first.send(image[-1:])
        assert first.getresponse().status == 200
        assert server.request("POST", "/predict", image)[0] == 200


def test_fifty_megabytes_are_refused_whole_and_in_parts(export: Path, image: bytes) -> None:
    with serving(export, "--device", "cpu") as server:
        big = bytes(50_000_000)
        status, _, body = server.request("POST", "/predict", big)
        assert (status, "25 MB" in json.loads(body)["error"]) == (413, True)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("POST", f"/predict?token={TOKEN}", iter([big[:20_000_000]] * 3), encode_chunked=True)
        assert connection.getresponse().status == 413
        assert server.request("POST", "/predict", image)[0] == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_once_what_came_is_answered(export: Path, image: bytes, number: int) -> None:
    with serving(export, "--device", "cpu") as server:
        assert server.request("POST", "/predict", image)[0] == 200
        waiting = half_sent(server, image)
        server.process.send_signal(number)
        time.sleep(0.3)
        waiting.send(image[-1:])
        assert waiting.getresponse().status == 200
        error = server.process.communicate(timeout=60)[1]
        assert server.process.returncode == 130
        assert error.splitlines()[-1].startswith(
            "Error: Interrupted. 2 images were answered. To run it again: dhox serve"
        )
        assert len(error.splitlines()) == 1


def test_the_address_and_the_models_are_printed(export: Path) -> None:
    with serving(export / "model.fp16.onnx", export / "model.onnx", "--device", "cpu", "--host", "127.0.0.1") as server:
        assert [line.split(":")[0] for line in server.said] == ["tiny fp16", "tiny fp32"]
        assert json.loads(server.request("GET", "/models")[2])["models"][0]["name"] == "tiny fp16"


@pytest.mark.parametrize(
    ("words", "code", "names"),
    [
        (["--port", "PORT"], 1, ["PORT", "in use", "--port 0"]),
        (["--host", "192.0.2.1"], 1, ["192.0.2.1", "--host"]),
        (["--host", "no such host"], 1, ["no such host", "--host"]),
        (["--token", "short"], 2, ["--token", "8"]),
        (["--token", "with blank and ü"], 2, ["--token"]),
        (["--precision", "int4"], 2, ["int4", "fp32"]),
        (["--precision", "int8"], 1, ["int8", "fp32, fp16"]),
        (["--device", "tpu"], 2, ["tpu", "cpu"]),
        (["nowhere"], 2, ["nowhere", "dhox export"]),
    ],
)
def test_what_is_refused(export: Path, words: list[str], code: int, names: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = call("serve", export, *[word.replace("PORT", port) for word in words], timeout=120)
    assert done.returncode == code
    (message,) = done.stderr.strip().splitlines()
    for name in names:
        assert name.replace("PORT", port) in message


def test_without_its_extra_it_says_what_to_install(export: Path) -> None:
    code = "import sys; sys.modules['uvicorn'] = None; from dhox.cli.main import main; main(['serve', sys.argv[1], '--port', '0'])"
    done = subprocess.run([sys.executable, "-c", code, export], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'dhox[serve]'" in done.stderr


def test_answers_do_not_wait_for_the_clients_acknowledgement() -> None:
    with (
        listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as one,
    ):
        assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
