"""`python -m emoray_jobs VERB …` is `emoray VERB …`: for submitted jobs, and where there is no console script."""

import sys

from emoray_jobs.cli import main

if __name__ == "__main__":
    sys.exit(main())
