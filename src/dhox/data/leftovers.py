"""What lies in DATA and is not read, so that nothing is left out in silence."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

# What desktops and notebooks leave behind, beside all names that begin with a dot.
SYSTEM = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})


def is_system(name: str) -> bool:
    """Whether a file or folder of this name is the system's own."""
    return name.startswith(".") or name in SYSTEM


def counted(n: int, thing: str) -> str:
    """`1 image`, `2 images`, `2 classes`."""
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}{'es' if thing.endswith('s') else 's'}"


@dataclass
class Leftovers:
    """Counts. `suffixes`: files of no image format that this machine reads; `folders`: images, by the folder at the top
    that is no split; `system`: the system's own files and folders; `unlisted`: images beside a list that does not name
    them. `unsure`: images that people gave several classes, and so none."""

    suffixes: Counter[str] = field(default_factory=Counter)
    folders: Counter[str] = field(default_factory=Counter)
    system: int = 0
    unlisted: int = 0
    unsure: list[str] = field(default_factory=list)

    def file(self, name: str) -> None:
        """A file that is no image."""
        dot = name.rfind(".")
        self.suffixes[name[dot:].lower() if dot > 0 else "no suffix"] += 1

    def lines(self) -> list[str]:
        """A line for each kind, for people; none where everything was read."""
        lines = [
            f"Not read: {counted(count, 'image')} in {name}/, which is no split." if name
            else f"Not read: {counted(count, 'image')} beside the folders."
            for name, count in self.folders.items()
        ]  # fmt: skip
        if self.suffixes:
            each = ", ".join(f"{count:,} {suffix}" for suffix, count in self.suffixes.most_common())
            files = counted(sum(self.suffixes.values()), "file")
            lines.append(f"Not read: {files} of no image format that is read here ({each}).")
        if self.system:
            lines.append(f"Not read: {counted(self.system, 'system file')}.")
        if self.unlisted:
            lines.append(f"Not read: {counted(self.unlisted, 'image')} that the list beside them does not name.")
        if self.unsure:
            some = ", ".join(self.unsure[:4]) + (" ..." if len(self.unsure) > 4 else "")
            lines.append(f"Unlabelled: {counted(len(self.unsure), 'image')} that people gave several classes ({some}).")
        return lines
