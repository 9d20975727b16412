"""The published claims about tuning methods, checked at a small scale with petune compare."""

import sys

from experiment.command import main

if __name__ == "__main__":
    sys.exit(main())
