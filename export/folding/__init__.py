"""Two heads to one linear layer."""
