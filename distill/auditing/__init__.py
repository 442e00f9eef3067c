"""Before training: what the teacher knows of DATA."""
