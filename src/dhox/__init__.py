"""dhox: a CLIP teacher, unlabelled images and a few labels to a small, fast classifier, with proof."""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`dhox.load` without importing numpy and Pillow for every `import dhox`."""
    if name == "load":
        from dhox.models.classifier import load

        return load
    raise AttributeError(f"module 'dhox' has no attribute {name!r}")
