"""What an audit shows."""
