"""`dhox predict` and `dhox.load(...).stream`: images from anywhere, their answers to anywhere. Needs no torch."""
