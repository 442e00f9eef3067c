"""Options, declared once."""
