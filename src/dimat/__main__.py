"""``python -m dimat`` is ``dimat``."""

import sys

from dimat.cli import main

if __name__ == "__main__":
    sys.exit(main())
