"""The command line: parse, call, print. The only place that prints.

Results go to stdout, progress and errors to stderr. Exit code 0; 2 for bad input (one line says what to
do, nothing is written); 1 for a fault of ours (the traceback goes to a log file); 130 when interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    try:
        # Takes a moment, and may be interrupted like the work itself.
        from critmass.cli.app import run

        code = run(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        print("critmass: stopped; run the same command again to go on", file=sys.stderr)
        code = 130
    sys.exit(code)
