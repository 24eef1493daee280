"""`python -m dopr`."""

import sys

from dopr.cli import main

if __name__ == "__main__":
    sys.exit(main())
