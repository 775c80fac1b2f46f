"""`python -m peftbench`: see `peftbench.cli.main`."""

import sys

from peftbench.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
