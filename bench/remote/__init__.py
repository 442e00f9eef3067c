"""Measuring on a board over ssh."""
