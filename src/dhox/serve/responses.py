"""What a page's server answers beside its own matter: records as JSON, files of this package, and failures."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from dhox.artefacts.record import Record
from dhox.errors import DhoxError
from dhox.serve.refusal import RefusedError

CLIENT_LEFT = 499  # no status of HTTP: for the metrics alone
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class ErrorAnswer(Record):
    """A request that was refused: why, and what to do."""

    error: str
    fix: str


def json_response(record: Record, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A record as JSON."""
    return Response(msgspec.json.encode(record), status, headers, "application/json")


def sent_file(path: Path) -> Callable[[Request], Response]:
    """An endpoint that sends a file, read once."""
    content, media_type = path.read_bytes(), MEDIA_TYPES[path.suffix]

    def send(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return send


def refused(err: RefusedError) -> Response:
    """A refusal as a response."""
    return json_response(ErrorAnswer(err.reason, err.fix), err.status, err.headers)


def failure_handlers(paths: str) -> dict[type[Exception], Callable[[Request, Exception], Response]]:
    """What answers an exception by its type. `paths`: those that the server knows, for who asks for another one."""

    def failed(request: Request, err: Exception) -> Response:
        if isinstance(err, RefusedError):
            return refused(err)
        if isinstance(err, HTTPException):
            error = ErrorAnswer(f"{request.method} {request.url.path}: {err.detail}.", f"Use {paths}.")
            return json_response(error, err.status_code, dict(err.headers or {}))
        assert isinstance(err, DhoxError)
        return json_response(ErrorAnswer(err.reason, err.fix), 500)

    return {DhoxError: failed, HTTPException: failed, ClientDisconnect: client_left, Exception: bug}


def client_left(request: Request, err: Exception) -> Response:
    """Nobody hears this."""
    return Response(status_code=CLIENT_LEFT)


def bug(request: Request, err: Exception) -> Response:
    """A mistake of dhox: its traceback goes to the terminal of the server alone."""
    traceback.print_exception(err)
    return json_response(ErrorAnswer("The server failed.", "Its terminal says why."), 500)
