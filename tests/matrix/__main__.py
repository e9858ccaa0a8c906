"""``python -m tests.matrix``: see `tests.matrix.page`."""

import sys

from tests.matrix.page import main

sys.exit(main(sys.argv[1:]))
