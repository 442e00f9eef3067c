"""`dataclass_transform` for Python 3.10: it tells a type checker what msgspec does to subclasses."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

__all__ = ["dataclass_transform"]

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:
    T = TypeVar("T")

    def dataclass_transform(**_: object):
        """Nothing at run time."""

        def same(kind: type[T]) -> type[T]:
            return kind

        return same
