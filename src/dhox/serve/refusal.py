"""A request that is refused: an error with a status of HTTP."""

from __future__ import annotations

from dhox.errors import DhoxError


class RefusedError(DhoxError):
    """What is wrong with a request and what to do. `status`: of the response; `headers`: what it needs beside."""

    def __init__(self, status: int, reason: str, fix: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(reason, fix)
        self.status, self.headers = status, headers or {}
