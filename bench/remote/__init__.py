"""Measuring on a board over ssh, and in each of its power modes."""
