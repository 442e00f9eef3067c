"""A running `dhox serve` or `dhox label`: the installed command on a free port, and Debian's chromium to look at it."""

from __future__ import annotations

import http.client
import io
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loopback import dhox_command
from PIL import Image

CHROMIUM = shutil.which("chromium")
NO_CHROMIUM = "no chromium here (apt install chromium)"
TOKEN = "token-of-the-tests"


@dataclass
class Server:
    process: subprocess.Popen[str]
    port: int
    said: list[str]  # lines before the address

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/?token={TOKEN}"

    def request(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and body of the response to a request with the token."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, {"Authorization": f"Bearer {TOKEN}"} | headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()


@contextmanager
def serving(*words: object, command: str = "serve") -> Iterator[Server]:
    """`dhox serve WORDS`; it must still run at the end, or have been stopped by the test, and say nothing but errors of
    users on standard error."""
    server = started(*words, command=command)
    try:
        yield server
    finally:
        server.process.terminate()
        error = server.process.communicate(timeout=60)[1]
    assert server.process.returncode == 130, error
    assert "Traceback" not in error


def started(*words: object, command: str) -> Server:
    """A server, once it has said its address."""
    process = subprocess.Popen(
        dhox_command(command, *words, "--port", 0, "--token", TOKEN),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        if found:
            break
        said.append(line.rstrip("\n"))
    else:
        raise AssertionError(process.communicate()[1])
    return Server(process, int(found[1]), said)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def film(path: Path, image: Image.Image) -> Path:
    """For Chromium's fake camera: one frame again and again (MJPEG: one JPEG after the other)."""
    frame = image.convert("RGB").resize((240, 240), Image.Resampling.BICUBIC)
    path.write_bytes(encoded(frame, "JPEG", quality=95) * 10)
    return path
