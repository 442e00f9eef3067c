"""Request bodies: bounded in size and time, and taken apart into images."""

from __future__ import annotations

from time import perf_counter

import anyio
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive

from dhox.serve.refusal import RefusedError
from dhox.serve.work import Upload

BODY_SECONDS = 60  # for a body to arrive
IMAGES_PER_REQUEST = 64
SEND_AN_IMAGE = "Send one encoded image as the body, or a form (multipart/form-data) with one or more files."


def declared_size(request: Request, largest: int) -> int:
    """Bytes of the body as the request states them, or `largest` where it does not. Raises RefusedError (413)."""
    stated = request.headers.get("content-length", "")
    size = int(stated) if stated.isascii() and stated.isdigit() else largest
    if size > largest:
        raise too_large(largest)
    return size


def too_large(largest: int) -> RefusedError:
    """A body beyond the bound."""
    return RefusedError(
        413, f"The body is larger than {largest / 1e6:g} MB.", "Send a smaller image, or start with --max-upload MB."
    )


def bounded(receive: Receive, largest: int) -> Receive:
    """`receive`, ended by RefusedError where the body grows beyond `largest` bytes."""
    size = 0

    async def next_part() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > largest:
            raise too_large(largest)
        return message

    return next_part


async def read_uploads(request: Request, largest: int) -> list[Upload]:
    """The images of a request: its whole body, or the files of a form. Raises RefusedError."""
    limited = Request(request.scope, bounded(request.receive, largest))
    try:
        with anyio.fail_after(BODY_SECONDS):
            if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
                files = await _form_files(limited)
            else:
                files = [("image", await limited.body())]
    except TimeoutError:
        raise RefusedError(408, f"The body did not arrive within {BODY_SECONDS} s.", "Send it again.") from None
    if not files or files == [("image", b"")]:
        raise RefusedError(400, "The request holds no image.", SEND_AN_IMAGE)
    arrived = perf_counter()
    return [Upload(name, content, arrived) for name, content in files]


async def _form_files(request: Request) -> list[tuple[str, bytes]]:
    """(name, content) of the files in a form."""
    try:
        async with request.form(max_files=IMAGES_PER_REQUEST, max_fields=IMAGES_PER_REQUEST) as form:
            found = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            return [(file.filename or "image", await file.read()) for file in found]
    except HTTPException as err:
        raise RefusedError(400, f"The form cannot be read ({err.detail.rstrip('.')}).", SEND_AN_IMAGE) from err
