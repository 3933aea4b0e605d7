"""`python -m recparam.cli` is the command `recparam`."""

import sys

from recparam.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
