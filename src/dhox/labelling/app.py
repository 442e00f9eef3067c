"""The application of `dhox label`: the page, its images, and answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

import dhox.serve
from dhox.artefacts.record import Record
from dhox.data.images import UnreadableImageError
from dhox.labelling.messages import MOST_AHEAD, Asked, GridAnswer, NewName, StateAnswer, TabAsks
from dhox.labelling.pictures import SIDES, Pictures
from dhox.labelling.session import Session
from dhox.serve.guard import Guard
from dhox.serve.refusal import RefusedError
from dhox.serve.responses import failure_handlers, json_response, sent_file

OWN, SHARED = Path(__file__).parent, Path(dhox.serve.__file__).parent
FILES = {"page.css": OWN, "page.js": OWN, "base.css": SHARED, "icon.svg": SHARED}
OPEN = {f"/{name}" for name in FILES}
LARGEST_BODY = 1_000_000  # bytes
LARGEST_GRID = 200  # images
R = TypeVar("R", bound=Record)


def make_app(
    session: Session, finished: Event, answered: Callable[[], None], *, token: str, names: set[str]
) -> ASGIApp:
    """The whole server as an ASGI application.

    `finished`: set where the page ends the session. `answered`: called after each answer that is on disk. `token`,
    `names`: see Guard.
    """
    pictures = Pictures()

    def state(request: Request) -> Response:
        return json_response(session.state())

    def following(request: Request) -> Response:
        count = number(request, "ahead", MOST_AHEAD)
        coming = session.next(text(request, "tab"), count)
        return json_response(msgspec.structs.replace(session.state(), coming=coming))

    def grid(request: Request) -> Response:
        count = number(request, "count", LARGEST_GRID)
        found: GridAnswer = session.grid(text(request, "tab"), text(request, "label"), count)
        return json_response(found)

    def image(request: Request) -> Response:
        which, side = number(request, "number", 2**31), SIDES[number(request, "large", 1)]
        item = session.item(which)
        try:
            return Response(pictures.get(item, side), media_type="image/jpeg")
        except UnreadableImageError as err:
            if item.path.is_file():
                raise RefusedError(422, err.reason, "Press b: a bad image.") from err
            session.lose(which)
            raise RefusedError(410, f"{item.name} is not there any more.", "It is left out.") from err

    async def answer(request: Request) -> Response:
        return await changed(session.answer, await body(request, Asked))

    async def undo(request: Request) -> Response:
        return await changed(session.undo, await body(request, TabAsks))

    async def add_class(request: Request) -> Response:
        return await changed(session.add_class, await body(request, NewName))

    async def changed(change: Callable[[R], StateAnswer], asked: R) -> Response:
        said = await run_in_threadpool(change, asked)
        answered()
        return json_response(said)

    async def leave(request: Request) -> Response:
        session.leave((await body(request, TabAsks)).tab)
        return Response(status_code=204)

    async def end(request: Request) -> Response:
        finished.set()
        return Response(status_code=204)

    reads = {"/state": state, "/next": following, "/grid": grid, "/image": image, "/": sent_file(OWN / "page.html")}
    writes = {"/answer": answer, "/undo": undo, "/class": add_class, "/leave": leave, "/end": end}
    routes = [Route(f"/{name}", sent_file(folder / name)) for name, folder in FILES.items()]
    routes += [Route(path, endpoint) for path, endpoint in reads.items()]
    routes += [Route(path, endpoint, methods=["POST"]) for path, endpoint in writes.items()]
    handlers = failure_handlers("GET / in a browser")
    app = Starlette(routes=routes, exception_handlers=handlers)
    return Guard(app, token, names, command="dhox label", secret=lambda path: path not in OPEN)


def text(request: Request, name: str) -> str:
    """A text of the query. Raises RefusedError (400) where it is missing."""
    found = request.query_params.get(name, "")
    if not found:
        raise RefusedError(400, f"The request has no {name}.", "Open the page again.")
    return found


def number(request: Request, name: str, most: int) -> int:
    """A number of the query, from 0 to `most`. Raises RefusedError (400)."""
    found = request.query_params.get(name, "")
    if not (found.isascii() and found.isdigit() and len(found) < 11 and int(found) <= most):
        raise RefusedError(400, f"{name}={found} is no number from 0 to {most}.", "Open the page again.")
    return int(found)


async def body(request: Request, kind: type[R]) -> R:
    """The JSON body of a request. Raises RefusedError (400, 413)."""
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > LARGEST_BODY:
            raise RefusedError(413, f"The body is larger than {LARGEST_BODY:,} bytes.", "Open the page again.")
    try:
        return msgspec.json.decode(content, type=kind)
    except (ValueError, RecursionError) as err:
        raise RefusedError(400, f"The request cannot be read ({err}).", "Open the page again.") from err
