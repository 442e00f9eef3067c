"""dhox sweep: choosing a student by its latency."""
