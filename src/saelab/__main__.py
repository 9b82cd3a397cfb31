"""`python -m saelab` is `saelab`."""

import sys

from saelab.cli import main

sys.exit(main())
