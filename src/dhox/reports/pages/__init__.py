"""One file per subject: its record as sections."""
