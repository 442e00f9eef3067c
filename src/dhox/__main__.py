"""`python -m dhox`."""

from dhox.cli.main import main

main()
