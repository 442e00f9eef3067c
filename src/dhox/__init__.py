"""dhox: a CLIP teacher, unlabelled images and a few labels to a small, fast classifier, with proof."""

__version__ = "0.1.0"
