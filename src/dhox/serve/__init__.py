"""The page of `dhox serve`: exports side by side in a browser, on images and on a camera."""
