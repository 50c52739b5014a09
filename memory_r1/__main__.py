"""`python -m memory_r1` is the `memory-r1` command."""

import sys

from memory_r1.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
