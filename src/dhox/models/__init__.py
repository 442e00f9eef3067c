"""Model files: what they say of themselves, and running them."""
