"""``python -m sessionlock``: the same as the console script ``sessionlock``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
