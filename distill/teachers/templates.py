"""Prompt templates: texts with {} for the class name. Imports nothing heavy until an ensemble is asked for."""

from __future__ import annotations

from pathlib import Path

from dhox.errors import DhoxError, UsageError, require

ENSEMBLES = {"simple": "SIMPLE_IMAGENET_TEMPLATES", "imagenet": "OPENAI_IMAGENET_TEMPLATES"}  # open_clip's: 7 and 80


def template_list(templates: str | None, single: list[str]) -> list[str]:
    """The prompt templates that `--templates simple|imagenet|FILE` or repeated `--template TEXT` mean.

    Neither: open_clip's 7 simple templates. FILE: UTF-8, one template per line, empty lines left out. Raises UsageError
    where both are given and for a template without its {}, DhoxError for a file that cannot be read or holds none.
    """
    if templates is not None and single:
        raise UsageError("--templates and --template both choose the prompts.", "Give one of them.")
    for text in single:
        check_template(text, "--template")
    if single:
        return list(dict.fromkeys(single))
    name = templates or "simple"
    if name in ENSEMBLES:
        metadata = require("open_clip.zero_shot_metadata", "distill")
        return [template("{}") for template in getattr(metadata, ENSEMBLES[name])]
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"--templates {name} is neither simple, nor imagenet, nor a file.", "Use one of these.")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as err:
        raise DhoxError(f"The template file {path} cannot be read ({err}).", "Save it as UTF-8 text.") from err
    found = list(dict.fromkeys(line for line in lines if line))
    if not found:
        raise DhoxError(f"The template file {path} holds no template.", "Write one per line, such as: a photo of a {}.")
    for text in found:
        check_template(text, f"--templates {path}:")
    return found


def check_template(text: str, origin: str) -> None:
    """Raise UsageError for a prompt template that cannot take a class name, once."""
    try:
        fits = text.format("NAME") != text.format("")
    except (IndexError, KeyError, ValueError):
        fits = False
    if not fits:
        raise UsageError(
            f"{origin} {text!r} has no place for the class name.",
            "Write {} once, where it belongs, and no other braces.",
        )
