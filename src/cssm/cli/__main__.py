"""python -m cssm.cli."""

import sys

from . import main

sys.exit(main())
