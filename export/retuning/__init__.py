"""Other alpha, beta, r or tau in an export as it stands."""
