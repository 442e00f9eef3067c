"""After training: a new class in the heads of a finished student."""
