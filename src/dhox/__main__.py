"""`python -m dhox`."""

from dhox.cli import main

main()
