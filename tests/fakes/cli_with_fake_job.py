"""`mc-chat` whose compressions are `fake_job.py`; the first word says which story they tell, or
that they are "real". Every step is shown."""

import sys
from pathlib import Path

from app import cli, jobs, progress_line

FAKE_JOB = Path(__file__).with_name("fake_job.py")


def main() -> int:
    story, *words = sys.argv[1:]
    if story != "real":
        jobs.JOB_COMMAND = [sys.executable, str(FAKE_JOB), "--story", story]
    progress_line.PLAIN_SECONDS = 0.0
    return cli.main(words)


if __name__ == "__main__":
    sys.exit(main())
