"""The command line: parse, call, print. The only place that prints.

Results go to stdout, progress and errors to stderr. Exit code 0; 2 for bad input (one line says what to
do, nothing is written); 1 for a fault of ours (the traceback goes to a log file).
"""

from critmass.cli.app import app, main

__all__ = ["app", "main"]
