"""What the teacher knows, computed once."""
