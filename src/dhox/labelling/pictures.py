"""Images as the page shows them: decoded from the item, made smaller, and kept for a while."""

from __future__ import annotations

import io
from collections import OrderedDict
from threading import Lock

from dhox.data.dataset import Item, read_image

SIDES = (256, 1024)  # pixels of the longer side: in the grid, and alone
KEPT_BYTES = 64_000_000


def jpeg(item: Item, side: int) -> bytes:
    """The image as a JPEG of at most `side` pixels. Raises UnreadableImageError."""
    image = read_image(item, jpeg_side=side)
    image.thumbnail((side, side))
    file = io.BytesIO()
    small = max(image.size) <= SIDES[0]
    image.save(file, "JPEG", quality=95 if small else 88, subsampling=0 if small else 2)
    return file.getvalue()


class Pictures:
    """JPEGs by image and side, the newest KEPT_BYTES of them."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock, self._bytes = Lock(), 0

    def get(self, item: Item, side: int) -> bytes:
        """One of them, made where it is not there. Raises UnreadableImageError."""
        key = (item.name, side)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        content = jpeg(item, side)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = content
                self._bytes += len(content)
            while self._bytes > KEPT_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return content
