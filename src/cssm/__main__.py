"""python -m cssm."""

import sys

from cssm.cli import main

sys.exit(main())
