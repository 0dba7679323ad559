"""`python -m pyromodels`: the command, where no script is installed."""

import sys

from pyromodels.experiments.command.cli import main

if __name__ == "__main__":
    sys.exit(main())
