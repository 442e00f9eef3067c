"""Choosing a student by its latency."""
