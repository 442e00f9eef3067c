"""The server process: its port, its address, and its end."""

from __future__ import annotations

import errno
import logging
import socket
from threading import Event, Thread

import uvicorn
from starlette.types import ASGIApp

from dhox.console import say
from dhox.errors import DhoxError
from dhox.serve.guard import is_address

END_SECONDS = 10  # for requests that are being answered when the server ends
LISTEN_ON = "Use --host 127.0.0.1, or 0.0.0.0 for all networks of this machine."
BACKLOG = 512  # connections that wait while the models load


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any free one. Raises DhoxError where that port or address is not to be had."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(found[4][:2], family=found[0], backlog=BACKLOG)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # for its connections: asyncio does not set it
        return listener
    except socket.gaierror as err:
        raise DhoxError(f"--host {host} is no name or address ({err.strerror}).", LISTEN_ON) from err
    except OSError as err:
        why = {
            errno.EADDRINUSE: (f"Port {port} of {host} is in use.", "Use another one: --port 0 takes any free port."),
            errno.EACCES: (f"Port {port} of {host} is not for this user.", "Use one from 1024 on: --port 8000"),
            errno.EADDRNOTAVAIL: (f"{host} is no address of this machine.", LISTEN_ON),
        }
        unknown = (f"Could not listen on port {port} of {host} ({err}).", LISTEN_ON)
        raise DhoxError(*why.get(err.errno or 0, unknown)) from err


def address_of(listener: socket.socket, host: str, token: str) -> str:
    """What to open in a browser."""
    name = socket.gethostname() if host in {"0.0.0.0", "::"} else f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}/?token={token}"


def say_who_may(host: str) -> None:
    """A word of care where others than this machine can ask."""
    if not (is_address(host) and host.startswith("127.")) and host not in {"localhost", "::1"}:
        say("Whoever has this address can use it, and what is sent is not encrypted.")


def run_server(app: ASGIApp, listener: socket.socket, finished: Event | None = None) -> None:
    """Answer until a KeyboardInterrupt, which is raised again when the requests of that moment are answered.

    `finished`: what the application sets to end the server itself. The server has a thread of its own, since in the
    main thread it would take the signals for itself.
    """
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    server = uvicorn.Server(
        uvicorn.Config(
            app, loop="asyncio", http="h11", ws="none", lifespan="on", log_config=None, access_log=False,
            proxy_headers=False, server_header=False, timeout_graceful_shutdown=END_SECONDS,
        )
    )  # fmt: skip
    finished = finished or Event()
    ended = Event()  # Thread.join, once interrupted, believes that the thread has ended (Python < 3.13)

    def answer() -> None:
        try:
            server.run(sockets=[listener])
        finally:
            ended.set()
            finished.set()

    Thread(target=answer, daemon=True).start()
    try:
        finished.wait()
    finally:
        server.should_exit = True
        ended.wait()
