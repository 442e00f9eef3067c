"""Cross-checks of the latency by clocks that are not ours."""
