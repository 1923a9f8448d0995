"""The command line put together: every command by name, and what becomes of errors."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback

import cyclopts

from critmass.cli.extract import demo, extract
from critmass.cli.inequality import inequality
from critmass.cli.listing import list_
from critmass.cli.measure import choose, measure
from critmass.cli.printing import visible
from critmass.cli.report import report, verify
from critmass.cli.study import figure, study_run, study_status
from critmass.errors import CritmassError, InputError, verbatim

app = cyclopts.App(
    name="critmass",
    help="How many neurons of a pre-trained representation does a task need?\n\n"
    "Example: critmass measure features.npz --score ridge --delta .9 .95",
    help_format="plaintext",
    version_flags=["--version"],
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,
)

studies = cyclopts.App(
    name="study",
    help="Run a study, or show how far it is.\n\nExample: critmass study run studies/local.yaml",
    help_format="plaintext",
)
studies.command(study_run, name="run")
studies.command(study_status, name="status")

for command in (demo, extract, measure, choose, studies, inequality, figure, report, verify):
    app.command(command)
app.command(list_, name="list")


def run(arguments: list[str]) -> int:
    """Run a command; return the exit code."""
    try:
        app(arguments, result_action="return_value")
    except (CritmassError, cyclopts.CycloptsError) as error:
        print(visible(f"critmass: {' '.join(str(error).split())}"), file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001  anything else is our fault: say so, keep the evidence
        if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            found = InputError(
                str(error.filename), verbatim(str(error.strerror)), "a path that can be opened"
            )
            print(visible(f"critmass: {found}"), file=sys.stderr)
            return 2
        with tempfile.NamedTemporaryFile(
            "w", prefix="critmass-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as log:
            log.write(f"critmass {' '.join(arguments)}\n{traceback.format_exc()}")
        print(
            f"critmass: internal error ({type(error).__name__}); the traceback is in {log.name}",
            file=sys.stderr,
        )
        return 1
    return 0
