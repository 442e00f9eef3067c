"""Numbers that prove: statistics, DHO inference on logits, the accuracy ledger."""
