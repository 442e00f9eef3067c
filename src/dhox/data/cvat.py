"""DATA as CVAT exports it: "CVAT for images 1.1", an annotations.xml with a tag for the class of each image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from xml.parsers import expat

from dhox.data.annotated import Annotated, annotated_splits
from dhox.data.folder import image_files
from dhox.data.items import SPLITS, Splits, shorten
from dhox.data.leftovers import Leftovers
from dhox.data.split_names import split_of
from dhox.errors import DhoxError
from dhox.system.regular_file import regular

ANNOTATIONS, IMAGES = "annotations.xml", "images"
FRAME = ".PNG"  # of a video's frames, which the XML names without it


def is_cvat(data: Path) -> bool:
    """Whether DATA is an XML file, or a folder as CVAT's archive unpacks: annotations.xml beside images/."""
    return data.suffix.lower() == ".xml" or ((data / ANNOTATIONS).is_file() and (data / IMAGES).is_dir())


def read_cvat(data: Path, wanted: tuple[str, ...] = SPLITS, leftovers: Leftovers | None = None) -> Splits:
    """Read the tags of all images. An image's split is its subset (CVAT's `default` is train).

    Raises DhoxError for an XML of another kind, one with a DOCTYPE, and what `annotated_splits` refuses.
    """
    listing = data / ANNOTATIONS if data.is_dir() else data
    splits = annotated_splits(listing, tagged_images(listing), wanted, leftovers)
    if data.is_dir() and leftovers is not None:
        listed = {item.name for items in splits.values() for item in items}
        leftovers.unlisted += sum(f"{IMAGES}/{inside}" not in listed for _, inside in image_files(data / IMAGES))
    return splits


def tagged_images(listing: Path) -> list[Annotated]:
    """The images of annotations.xml with their tags, in its order."""
    images: list[Annotated] = []
    others: Counter[str] = Counter()
    inside: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        if not inside and name != "annotations":
            raise _no_cvat(listing, f"its root is <{name}>")
        if name == "track":
            raise DhoxError(f"{listing} is CVAT's format for videos.", 'Export the task as "CVAT for images 1.1".')
        if name == "image" and inside == ["annotations"]:
            if not attributes.get("name"):
                raise _no_cvat(listing, "an <image> has no name")
            images.append(image_of(attributes))
        elif inside[1:] == ["image"] and name == "tag" and attributes.get("label"):
            images[-1].choices.add(attributes["label"])
        elif inside[1:] == ["image"]:
            others[name] += 1
        inside.append(name)

    def end(_: str) -> None:
        inside.pop()

    _parse(listing, start, end)
    if not images:
        raise _no_cvat(listing, "it lists no <image>")
    if others and not any(image.choices for image in images):
        kinds = shorten([f"{count} {name}" for name, count in others.most_common()])
        raise DhoxError(f"{listing} has no tag, only {kinds}.", "A classifier needs a tag for each image: its class.")
    return images


def image_of(attributes: dict[str, str]) -> Annotated:
    """An image by the attributes of its element: `name`, and of a project `subset` and `task_id`."""
    name, subset = attributes["name"], attributes.get("subset", "")
    below = [f"{IMAGES}/{subset}/{name}", f"{IMAGES}/{name}"] if subset else [f"{IMAGES}/{name}"]
    paths = [path + suffix for path in (*below, name) for suffix in ("", FRAME)]
    train = not subset or (subset.startswith("default") and split_of(subset) is None)
    reference = f"{subset}/{name}" if subset else name
    return Annotated(reference, split="train" if train else subset, paths=paths)


def _parse(listing: Path, start: Callable[[str, dict[str, str]], None], end: Callable[[str], None]) -> None:
    """Read an XML file piece by piece. Raises DhoxError where it is none, and for a DOCTYPE: nothing is expanded."""

    def refuse(*_: object) -> None:
        raise DhoxError(f"{listing} has a DOCTYPE, which CVAT never writes.", "Export it again.")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = refuse
    try:
        with regular(listing).open("rb") as file:
            parser.ParseFile(file)
    except (OSError, expat.ExpatError, ValueError) as err:
        raise _no_cvat(listing, str(err)) from err


def _no_cvat(listing: Path, why: str) -> DhoxError:
    """The error for an XML file of another kind."""
    return DhoxError(f'{listing} is not "CVAT for images 1.1" ({why}).', "Export the task from CVAT in that format.")
