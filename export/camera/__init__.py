"""Camera files: a model with its preprocessing in front, from a camera's raw frames to probabilities in one graph."""
