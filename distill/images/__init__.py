"""Which images, and how they become pixels."""
