"""Stage 3: measure latency, throughput and accuracy of the very files that ship (no torch needed)."""
