"""`python -m ommatid.cli` is the command `ommatid`."""

import sys

from ommatid.cli import main

sys.exit(main())
