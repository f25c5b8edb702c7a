"""`python -m utils.report`: see utils/report/results.py."""

import sys

from utils.report.results import main

if __name__ == "__main__":
    sys.exit(main())
