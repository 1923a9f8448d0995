"""What a POSIX system has and Windows has not: nothing of critmass needs it to be imported or to write."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_data import tree

from critmass.io import files

IMPORT_ALL = """
import importlib, pkgutil, sys
sys.modules |= dict.fromkeys(("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix_ipc"))
import critmass
names = [found.name for found in pkgutil.walk_packages(critmass.__path__, "critmass.")]
for name in names:
    if name not in sys.argv[1:]:
        importlib.import_module(name)
print(len(names))
"""


def test_every_module_is_imported_without_what_posix_alone_has() -> None:
    # Importing it needs torchvision and timm, which are no part of this check.
    left_out = "critmass.sources.models.architectures"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_ALL, left_out],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60


def test_files_are_written_where_folders_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows: no handle for a folder, and none flushed that may only read."""
    opened, fsync = os.open, os.fsync

    def windows_open(path, flags, *rest, **more):
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, *rest, **more)

    def windows_fsync(handle):
        os.write(handle, b"")  # EBADF where the handle may only read
        flushed.append(handle)
        fsync(handle)

    flushed = []
    monkeypatch.setattr(files, "POSIX", False)
    monkeypatch.setattr(os, "open", windows_open)
    monkeypatch.setattr(os, "fsync", windows_fsync)
    files.write_atomic(tmp_path / "a" / "file.bin", b"whole")
    monkeypatch.undo()
    assert tree(tmp_path) == {"a": None, "a/file.bin": b"whole"}
    assert len(flushed) == 1
