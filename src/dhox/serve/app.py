"""The application: the page, its models, predictions and metrics."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from dhox.artefacts.record import Record
from dhox.errors import DhoxError
from dhox.serve.answers import ErrorAnswer, PredictAnswer, ServedModels
from dhox.serve.bodies import IMAGES_PER_REQUEST, declared_size, read_uploads
from dhox.serve.guard import Guard
from dhox.serve.metrics import CONTENT_TYPE, Metrics
from dhox.serve.refusal import RefusedError
from dhox.serve.work import Room, Work

FOLDER = Path(__file__).parent
FILES = {
    "/": ("page.html", "text/html"), "/page.css": ("page.css", "text/css"), "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}  # fmt: skip
CLIENT_LEFT = 499  # no status of HTTP: for the metrics alone


def make_app(
    work: Work, metrics: Metrics, *, token: str, names: set[str], top: int, largest_upload: int, queue: int
) -> ASGIApp:
    """The whole server as an ASGI application.

    `token`, `names`: see Guard. `top`: classes of an answer, where the request names no number. `largest_upload`: bytes
    of a request body. `queue`: requests that are held at once.
    """
    room = Room(queue, largest_upload)
    entries = [served.entry for served in work.models]

    async def models(request: Request) -> Response:
        return json_response(ServedModels(entries, largest_upload, IMAGES_PER_REQUEST))

    async def measured(request: Request) -> Response:
        return Response(metrics.text(entries), headers={"Content-Type": CONTENT_TYPE})

    async def predict(request: Request) -> Response:
        wanted = asked_top(request, top)
        with room.place(declared_size(request, largest_upload)) as resize:
            uploads = await read_uploads(request, largest_upload)
            resize(sum(len(upload.content) for upload in uploads))
            images = await asyncio.gather(*(work.answer(upload, wanted) for upload in uploads))
        errors = [image.error for image in images if image.error]
        if len(errors) == len(images):
            raise RefusedError(422, " ".join(errors), "Send images that Pillow reads.")
        return json_response(PredictAnswer(images))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        work.close()

    routes = [Route(path, sent_file(*file)) for path, file in FILES.items()]
    routes += [Route("/models", models), Route("/metrics", measured), Route("/predict", predict, methods=["POST"])]
    handlers = {DhoxError: failed, HTTPException: failed, ClientDisconnect: client_left, Exception: bug}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    return Guard(app, token, names, metrics, refused)


def json_response(record: Record, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A record as JSON."""
    return Response(msgspec.json.encode(record), status, headers, "application/json")


def sent_file(name: str, media_type: str) -> Callable[[Request], Response]:
    """An endpoint that sends a file of this package."""
    content = (FOLDER / name).read_bytes()

    def send(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return send


def asked_top(request: Request, default: int) -> int:
    """How many classes a request wants. Raises RefusedError (400)."""
    text = request.query_params.get("top")
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 7 and int(text)):
        raise RefusedError(400, f"top={text} is no number of classes.", "Ask for 1 or more: ?top=3")
    return int(text)


def refused(err: RefusedError) -> Response:
    """A refusal as a response."""
    return json_response(ErrorAnswer(err.reason, err.fix), err.status, err.headers)


def failed(request: Request, err: Exception) -> Response:
    """A refusal, an unknown path or method, or a model that cannot answer."""
    if isinstance(err, RefusedError):
        return refused(err)
    if isinstance(err, HTTPException):
        return json_response(
            ErrorAnswer(
                f"{request.method} {request.url.path}: {err.detail}.", "Use GET /, /models, /metrics or POST /predict."
            ),
            err.status_code,
            dict(err.headers or {}),
        )
    assert isinstance(err, DhoxError)
    return json_response(ErrorAnswer(err.reason, err.fix), 500)


def client_left(request: Request, err: Exception) -> Response:
    """Nobody hears this."""
    return Response(status_code=CLIENT_LEFT)


def bug(request: Request, err: Exception) -> Response:
    """A mistake of dhox: its traceback goes to the terminal of the server alone."""
    traceback.print_exception(err)
    return json_response(ErrorAnswer("The server failed.", "Its terminal says why."), 500)
