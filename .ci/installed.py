"""Check the critmass that is installed beside this interpreter: python .ci/installed.py README.md.

It comes from no source tree, is typed, has no deep-learning framework beside it, and runs the README's code.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import re
import sys
from pathlib import Path

import critmass

home = Path(critmass.__file__).parent
if not home.is_relative_to(sys.prefix):
    sys.exit(f"critmass comes from {home}, not from the environment {sys.prefix}")
if not importlib.resources.files("critmass").joinpath("py.typed").is_file():
    sys.exit("py.typed is not in the wheel: type checkers would not look at critmass")
if importlib.util.find_spec("torch"):
    sys.exit("the environment has torch; it is to have the wheel alone")
for code in re.findall(
    r"```python\n(.*?)```", Path(sys.argv[1]).read_text(encoding="utf-8"), flags=re.DOTALL
):
    exec(compile(code, sys.argv[1], "exec"), {})  # noqa: S102
