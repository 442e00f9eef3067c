"""The files between the stages, as types."""
