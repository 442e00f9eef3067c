"""`dhox export --rehearse-drift`: what the export answers to altered validation images, by which drift estimates."""
