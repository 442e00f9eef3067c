"""Who may ask: the token, the Host and Origin headers; and what every response says to a browser."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dhox.serve.metrics import Metrics
from dhox.serve.refusal import RefusedError
from dhox.serve.responses import refused

DRAINED, DRAIN_SECONDS = 256_000_000, 30  # of a refused body are read, since a client that still sends hears no answer
NO_PAGE = (
    "<!doctype html><html lang=en><meta charset=utf-8><title>{command}</title>"
    "<p>This page opens with its whole address, token included, as <code>{command}</code> printed it."
)
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """An ASGI application in front of another one.

    `token`: who has it may ask. `names`: host names that this server answers to, beside addresses: a page of another
    site that points its own name at this machine (DNS rebinding) has another one. `command`: which one printed the
    token. `secret`: whether a path needs the token. `metrics`: where requests are counted.
    """

    def __init__(
        self, app: ASGIApp, token: str, names: set[str], *, command: str, secret: Callable[[str], bool],
        metrics: Metrics | None = None,
    ) -> None:  # fmt: skip
        self.app, self.token, self.names = app, token, names
        self.command, self.secret, self.metrics = command, secret, metrics or Metrics()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and count it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        asked = Incoming(scope, receive)
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                headers.update(HEADERS)
                if status >= 400:
                    await asked.drain()
            await send(message)

        self.metrics.in_flight += 1
        try:
            app = self._refusal(Request(scope)) or self.app
            await app(scope, asked.receive, answer)
        finally:
            self.metrics.in_flight -= 1
            path = scope["path"] if self.secret(scope["path"]) else "other"
            self.metrics.requests[path, str(status)] += 1

    def _refusal(self, request: Request) -> Callable[[Scope, Receive, Send], Awaitable[None]] | None:
        """The response to a request that may not be answered, or None."""
        try:
            check_host(request.headers, self.names)
            check_origin(request.headers, self.command)
            if self.secret(request.url.path):
                self._check_token(request)
        except RefusedError as err:
            if err.status == 401 and request.url.path == "/":
                return HTMLResponse(NO_PAGE.format(command=self.command), 401)
            return refused(err)
        return None

    def _check_token(self, request: Request) -> None:
        kind, _, bearer = request.headers.get("authorization", "").partition(" ")
        given = bearer.strip() if kind.lower() == "bearer" else request.query_params.get("token", "")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            raise RefusedError(
                401, "The token is missing or wrong.",
                f"Send the one that {self.command} printed: ?token=TOKEN, or the header Authorization: Bearer TOKEN.",
                {"WWW-Authenticate": "Bearer"},
            )  # fmt: skip


class Incoming:
    """The messages of a request, and whether its body has come to its end."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        headers = Headers(scope=scope)
        self.source = receive
        self.ended = not (headers.get("content-length", "0") != "0" or "transfer-encoding" in headers)
        self.waits = (
            headers.get("expect", "").lower() == "100-continue"
        )  # the client sends nothing before it is told to

    async def receive(self) -> Message:
        """The next message."""
        message = await self.source()
        self.waits = False
        self.ended = self.ended or message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Read on, and forget."""
        size = 0
        with anyio.move_on_after(DRAIN_SECONDS):
            while not (self.ended or self.waits) and size < DRAINED:
                size += len((await self.receive()).get("body", b""))


def check_host(headers: Headers, names: set[str]) -> None:
    """Raise RefusedError (403) where the Host header is neither an address nor one of `names`."""
    host = headers.get("host", "")
    name = host_name(host)
    if name not in names and not is_address(name):
        raise RefusedError(
            403, f"This server does not answer to the name {host!r}.",
            "Open it by its address, or start it with --host NAME.",
        )  # fmt: skip


def host_name(host: str) -> str:
    """The name or address of a Host header, without its port; empty where it is no such header."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def check_origin(headers: Headers, command: str) -> None:
    """Raise RefusedError (403) where a page of another site asks."""
    origin = headers.get("origin")
    if origin is not None and origin.lower() != f"http://{headers.get('host', '').lower()}":
        raise RefusedError(403, f"The page of {origin} may not ask here.", f"Open the page of {command} itself.")


def is_address(name: str) -> bool:
    """Whether a host is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def own_names(host: str) -> set[str]:
    """The names that this machine has without asking a name server, and `host`."""
    machine = socket.gethostname().lower()
    return {"localhost", machine, f"{machine.split('.')[0]}.local", host.lower().rstrip(".")}
