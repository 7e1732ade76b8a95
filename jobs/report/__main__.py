"""python -m jobs.report"""

import sys

from jobs.report.page import main

sys.exit(main())
