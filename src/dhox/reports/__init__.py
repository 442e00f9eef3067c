"""What people read: tables in the terminal and self-contained pages."""
