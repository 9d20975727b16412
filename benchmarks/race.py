"""petune against its peers: the same work, every side in its own environment, in turn on one machine."""

import sys

from race.command import main

if __name__ == "__main__":
    sys.exit(main())
