"""``python -m advphotoz`` is the command `advphotoz`."""

import sys

from advphotoz.command import main

if __name__ == "__main__":
    sys.exit(main())
