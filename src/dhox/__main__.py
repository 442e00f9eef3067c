"""The command `dhox`, and `python -m dhox`: Ctrl-C is understood before anything else is imported."""

import sys


def main() -> None:
    """Run the command."""
    try:
        from dhox.cli.interrupts import leave_at_once

        leave_at_once()
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted. Run the same command again.\n")
        sys.exit(130)
    from dhox.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
