"""From logits to alpha, beta and accuracy."""
