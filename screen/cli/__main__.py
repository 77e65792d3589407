"""`python -m screen.cli`: the command without an installed script."""

import sys

from screen.cli.main import main

sys.exit(main())
