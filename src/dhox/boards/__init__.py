"""Jetson boards: what they are, what they can take, and how they are reached."""
