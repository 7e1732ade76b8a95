"""Where the files lie that the code reads and that are no Python: sql/, docker/postgres/migrations, flink-conf.yaml.

In a checkout they stand at its root. A wheel has them in ``jobs/data``, under the same names (pyproject.toml).
"""

from __future__ import annotations

import os
import sys
from importlib.resources import files
from pathlib import Path

_PACKAGE = Path(str(files("jobs"))).resolve()
_SHIPPED = _PACKAGE / "data"

# The root of the checkout; None where the code was installed from a wheel.
CHECKOUT = None if _SHIPPED.is_dir() else _PACKAGE.parent
# The folder that holds the files above.
ROOT = CHECKOUT or _SHIPPED

# Where what was downloaded once is kept.
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "anomaly-cost"
DOWNLOADS = CHECKOUT / "build" if CHECKOUT else _CACHE

# What starts Python for a module of the project: an installed one isn't looked for in the current folder.
PYTHON = (sys.executable,) if CHECKOUT else (sys.executable, "-P")
