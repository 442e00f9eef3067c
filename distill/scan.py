"""One parallel pass over every image file: content hash, and whether it decodes."""

from __future__ import annotations

import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor

from dhox.console import progress_bar
from dhox.dataset import Item, Splits, image_bytes, shorten
from dhox.errors import DhoxError
from dhox.images import UnreadableImageError, decode


def scan_item(item: Item) -> tuple[str, str | None]:
    """(content hash, None) of a good image, (content hash, reason) of a bad one."""
    content = b""
    try:
        content = image_bytes(item)
        decode(io.BytesIO(content), item.name)
    except UnreadableImageError as err:
        return hashlib.sha256(content).hexdigest(), err.reason
    except OSError as err:
        return "", err.strerror or str(err)
    return hashlib.sha256(content).hexdigest(), None


def scan(splits: Splits, skip_bad_images: bool) -> tuple[Splits, dict[str, str], dict[str, str]]:
    """Decode and hash every image: (splits without bad images, name -> content hash, bad name -> reason).

    Raises DhoxError that names and counts the bad images, unless `skip_bad_images`.
    """
    items = [item for split in splits.values() for item in split]
    content: dict[str, str] = {}
    bad: dict[str, str] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress_bar("Checking images", len(items)) as advance:
        for item, (digest, reason) in zip(items, pool.map(scan_item, items), strict=True):
            content[item.name] = digest
            if reason is not None:
                bad[item.name] = reason
            advance(1)
    if bad and not skip_bad_images:
        raise DhoxError(
            f"{len(bad)} of {len(items)} images cannot be read: "
            + shorten([f"{name} ({reason})" for name, reason in sorted(bad.items())])
            + ". Replace or remove them, or add --skip-bad-images to continue without them."
        )
    good = {split: [item for item in of_split if item.name not in bad] for split, of_split in splits.items()}
    return good, content, bad
