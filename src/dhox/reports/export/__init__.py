"""What an export shows."""
