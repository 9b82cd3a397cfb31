"""`python -m saelab` does what the command `saelab` does; knows nothing of its own."""

import sys

from saelab.cli import main

sys.exit(main())
