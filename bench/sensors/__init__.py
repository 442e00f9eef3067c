"""Energy, clocks, temperatures and throttling."""
