"""`python -m memory_r1.evaluation.report FOLDER...`: redraw the page of an evaluation, or compare several on one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from memory_r1.entry import run_main
from memory_r1.evaluation.report.write import COMPARISON_PAGE, write_comparison_report, write_report


def main(arguments: Sequence[str]) -> int:
    """Redraw the page of one evaluation, or draw a comparison of several; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m memory_r1.evaluation.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, nargs="+", help="folder of an evaluation")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs") / COMPARISON_PAGE, metavar="HTML", help="page of a comparison"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if len(options.folder) == 1:
        path = write_report(options.folder[0])
    else:
        path = write_comparison_report(options.output, options.folder)
    sys.stdout.write(f"wrote {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
