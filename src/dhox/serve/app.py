"""The application: the page, its models, predictions and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from dhox.serve.answers import PredictAnswer, ServedModels
from dhox.serve.bodies import IMAGES_PER_REQUEST, declared_size, read_uploads
from dhox.serve.guard import Guard
from dhox.serve.metrics import CONTENT_TYPE, Metrics
from dhox.serve.refusal import RefusedError
from dhox.serve.responses import failure_handlers, json_response, sent_file
from dhox.serve.work import Room, Work

FOLDER = Path(__file__).parent
FILES = ("base.css", "page.css", "page.js", "icon.svg")
WITH_TOKEN = {"/", "/models", "/predict", "/metrics"}


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

    routes = [Route(f"/{name}", sent_file(FOLDER / name)) for name in FILES]
    routes += [
        Route("/", sent_file(FOLDER / "page.html")),
        Route("/models", models),
        Route("/metrics", measured),
        Route("/predict", predict, methods=["POST"]),
    ]
    handlers = failure_handlers("GET /, /models, /metrics or POST /predict")
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    return Guard(app, token, names, command="dhox serve", secret=WITH_TOKEN.__contains__, metrics=metrics)


def asked_top(request: Request, default: int) -> int:
    """How many classes a request wants. Raises RefusedError (400)."""
    text = request.query_params.get("top")
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 7 and int(text)):
        raise RefusedError(400, f"top={text} is no number of classes.", "Ask for 1 or more: ?top=3")
    return int(text)
