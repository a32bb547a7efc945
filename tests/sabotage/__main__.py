"""``python -m tests.sabotage``: see :mod:`tests.sabotage.runner`."""

from __future__ import annotations

import sys

from tests.sabotage.runner import main

sys.exit(main())
