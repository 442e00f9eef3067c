"""Stage 1: train a dual-head student (DHO, arXiv 2505.07675) into a run directory."""
