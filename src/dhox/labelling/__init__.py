"""The page of `dhox label`: images to labels, one keystroke each, on disk before the page says so."""
