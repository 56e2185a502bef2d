"""``dimat``, and ``python -m dimat``: the command line, which takes a moment to be imported."""

import sys


def main() -> int:
    """Run the command line of this process; returns its exit code."""
    try:
        from dimat.cli import main as run
    except KeyboardInterrupt:
        print("dimat: interrupted", file=sys.stderr)
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
