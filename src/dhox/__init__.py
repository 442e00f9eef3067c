"""dhox: a CLIP teacher, unlabelled images and a few labels to a small, fast classifier, with proof.

In Python, each stage is a function with the options of its command:

    run = dhox.distill("photos", shots=16).run
    export = dhox.export(run, fp16=True).export
    dhox.bench(export)
    dhox.load(export)("image.jpg")
"""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`dhox.load` and the stages, without importing numpy and Pillow for every `import dhox`."""
    if name == "load":
        from dhox.models.classifier import load

        return load
    if name in {"distill", "export", "bench"}:
        from importlib import import_module

        return import_module(f"dhox.{name}")
    raise AttributeError(f"module 'dhox' has no attribute {name!r}")
