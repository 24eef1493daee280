"""Writes the page about a run again and again while the run goes on."""

import time
from pathlib import Path

from dopr.core.errors import UserError
from dopr.report import write_report

# What a run and a comparison write when they are done.
_LAST_FILES = ("done.json", "comparison.json")


def watch_report(run_dir: Path, output: Path | None = None, every_s: int = 30) -> Path:
    """Writes the page every so often until the run is finished or Ctrl-C, and then a last time.

    Only the pages in between load themselves again in a browser; the last one stays.

    Args:
        run_dir: of a run or a comparison; a finished one gets its page at once.
        output: as for `write_report`.
        every_s: seconds between two pages.

    Returns:
        The path of the page.

    Raises:
        UserError: `every_s` is below 1, or as `write_report` raises it.
    """
    if every_s < 1:
        raise UserError(f"--watch is {every_s}; give at least 1 second")
    try:
        while not any((run_dir / name).is_file() for name in _LAST_FILES):
            write_report(run_dir, output, reload_s=every_s)
            time.sleep(every_s)
    except KeyboardInterrupt:
        pass  # the page must still stop loading itself
    return write_report(run_dir, output)
