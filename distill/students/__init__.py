"""Backbones with their heads."""
