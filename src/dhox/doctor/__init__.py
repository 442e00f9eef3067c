"""dhox doctor: what this machine, or a board to come, can do and why not."""
