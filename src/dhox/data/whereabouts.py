"""Where images lie that another tool names in its own way: by URL, by upload, by a path on another disk."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from dhox.data.folder import image_files
from dhox.data.items import shorten
from dhox.errors import DhoxError

UPLOADED = re.compile(r"[0-9a-f]{8}-")  # what Label Studio puts before the name of an uploaded file
UPLOADS = re.compile(r"/?data/upload/")


def paths_meant(reference: str) -> list[str]:
    """Paths that a reference may mean, the likeliest first: of a URL its path, of `?d=` what stands behind it."""
    plain = reference.replace("\\", "/")
    try:
        parts = urlsplit(plain)
    except ValueError:  # brackets of no IP address
        return [plain]
    if parts.path.rstrip("/").endswith("data/local-files"):
        return [*parse_qs(parts.query).get("d", []), unquote(plain.partition("?d=")[2])]
    if parts.scheme in {"http", "https"}:
        plain = parts.path.lstrip("/")
    elif "://" in plain:  # a bucket of s3, gs, azure-blob: its keys may hold any character
        plain = plain.partition("://")[2].partition("/")[2]
    plain = UPLOADS.sub("", plain, count=1) if UPLOADS.match(plain) else plain
    return [plain, unquote(plain)]


@dataclass(frozen=True)
class Folder:
    """A folder in which images are looked for."""

    root: Path

    @cached_property
    def by_name(self) -> dict[str, list[str]]:
        """File name -> the images of that name, as paths below the folder with /."""
        found: dict[str, list[str]] = defaultdict(list)
        for _, inside in image_files(self.root):
            found[inside.rpartition("/")[2]].append(inside)
        return found

    def find(self, paths: list[str]) -> list[str]:
        """The images that paths may mean: the first of them that is a file, else those of its file name (with or
        without an upload's prefix) whose folders agree best. None or several where it is not certain."""
        for path in filter(None, paths):
            if os.path.isfile(self.root / path):  # noqa: PTH113 - False for what no file system takes
                return [path]
        for path in filter(None, paths):
            name = path.rpartition("/")[2]
            named = self.by_name.get(name) or self.by_name.get(UPLOADED.sub("", name, count=1), [])
            if named:
                agreeing = [shared_tail(path, other) for other in named]
                best = max(agreeing) if max(agreeing) > 1 or len(named) == 1 else 0
                return [other for other, tail in zip(named, agreeing, strict=True) if tail >= best]
        return []

    def find_all(self, listing: Path, references: dict[str, list[str]]) -> dict[str, str]:
        """Reference -> its image, for all that `listing` names. Raises DhoxError for images that are not below the
        folder, that may be several, and that two references mean."""
        found = {reference: self.find(paths) for reference, paths in references.items()}
        if missing := [reference for reference, images in found.items() if not images]:
            raise DhoxError(
                f"{len(missing)} of the {len(found)} images that {listing} names are not below {self.root}: "
                f"{shorten(missing, 4)}.",
                "Copy them there; they are found by their path or by their file name.",
            )
        if unclear := [reference for reference, images in found.items() if len(images) > 1]:
            raise DhoxError(
                f"{unclear[0]} of {listing} may be any of {shorten(found[unclear[0]], 4)} (and so for {len(unclear)} "
                f"of its {len(found)} images).",
                f"Lay the images out below {self.root} as {listing.name} names them.",
            )
        owner: dict[str, str] = {}
        for reference, (image,) in found.items():
            if owner.setdefault(image, reference) != reference:
                raise DhoxError(
                    f"{owner[image]} and {reference} of {listing} would both be {image}.",
                    f"Lay the images out below {self.root} as {listing.name} names them.",
                )
        return {reference: image for reference, (image,) in found.items()}


def shared_tail(one: str, other: str) -> int:
    """How many parts at the end two paths share; the file name counts as shared."""
    ends = list(zip(reversed(one.split("/")[:-1]), reversed(other.split("/")[:-1]), strict=False))
    return 1 + next((n for n, (mine, theirs) in enumerate(ends) if mine != theirs), len(ends))
