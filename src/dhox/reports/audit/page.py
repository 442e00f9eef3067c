"""audit.html: what `dhox audit` found, on one page with pictures and without external resources."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image

from dhox.artefacts.files import AUDIT_FILE, AUDIT_SCHEMA, read_json, write_bytes
from dhox.data.dataset import Item, read_dataset, read_image
from dhox.data.images import UnreadableImageError
from dhox.errors import require
from dhox.reports.tables import near_sentences, unlike_sentence

THUMBNAIL = 96  # pixels, the longer side at most
MOST_CLASSES, MOST_TEMPLATES, MOST_PAIRS = 40, 20, 8


def write_audit_page(directory: Path) -> Path:
    """Write DIRECTORY/audit.html from DIRECTORY/audit.json; pictures come from DATA, where it still is."""
    jinja2 = require("jinja2", "report")
    content = read_json(directory / AUDIT_FILE, AUDIT_SCHEMA)
    items = {item.name: item for split in read_dataset(Path(content["data"])).values() for item in split}
    pictures = {name: thumbnail(items.get(name)) for name in shown_images(content)}
    sets = content["sets"]
    page = {
        "content": content,
        "title": f"Audit of {Path(content['data']).name}",
        "subtitle": (
            f"{sets['labelled']} labelled, {sets['unlabelled']} unlabelled, {sets['validation']} validation and "
            f"{sets['test']} test images, {len(content['classes'])} classes, teacher {content['teacher']['name']}"
        ),
        "pictures": pictures,
        "classes": sorted(content["per_class"], key=lambda row: row["accuracy"])[:MOST_CLASSES],
        "templates": content["templates"][:MOST_TEMPLATES],
        "confusions": content["confusions"][:MOST_PAIRS],
        "near_sentences": near_sentences(content["near_copies"]),
        "most_pairs": MOST_PAIRS,
        "unlike_sentence": unlike_sentence(content["unlike"]),
        "class_names": [entry["name"] for entry in content["classes"]],
        "method": method_lines(content),
    }
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((Path(__file__).parent / "audit.html.j2").read_text(encoding="utf-8"))
    write_bytes(directory / "audit.html", template.render(page).encode())
    return directory / "audit.html"


def shown_images(content: dict[str, Any]) -> set[str]:
    """The names of every image on the page."""
    names = {name for row in content["confusions"][:MOST_PAIRS] for name in row["examples"]}
    for split in ("validation", "test"):
        for pair in content["near_copies"][split]["pairs"][:MOST_PAIRS]:
            names |= {pair["image"], pair["training_image"]}
    return names | {row["image"] for row in content["unlike"]["images"]}


def thumbnail(item: Item | None) -> str:
    """A picture as a data URI; an empty grey one where the image is gone."""
    try:
        image = read_image(item) if item else Image.new("RGB", (THUMBNAIL, THUMBNAIL), (128, 128, 128))
    except UnreadableImageError:
        image = Image.new("RGB", (THUMBNAIL, THUMBNAIL), (128, 128, 128))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def method_lines(content: dict[str, Any]) -> list[str]:
    """How the numbers came about."""
    teacher = content["teacher"]
    bias = "" if teacher["logit_bias"] is None else f", logit bias {teacher['logit_bias']:g} (changes no softmax)"
    probe = (
        "cross-validated: each image is answered by a probe that did not see it, and whose strength other folds chose"
        if content["judges"]["cross_validated"]
        else "trained on the labelled images, its strength chosen by cross-validation among them"
    )
    return [
        f"Accuracies: {content['judges']['words']}, whole images; Wilson intervals. Test labels are not read.",
        f"Teacher: scale {teacher['scale']:.3g}{bias}, {len(teacher['templates'])} templates averaged.",
        f"Linear probe: L2-regularised logistic regression on the image embeddings, {probe}.",
        "Differences are paired, on the same images; the bound is one-sided at 95 %.",
        "The best template of several was picked on the images that measure it, so its accuracy is optimistic.",
        *[f"Note: {note}." for note in content["notes"]],
        "Versions: " + ", ".join(f"{name} {value}" for name, value in content["environment"].items()) + ".",
    ]
