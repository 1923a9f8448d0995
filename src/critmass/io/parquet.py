"""Our tables as Parquet files, with a checksum over their bytes.

What reads Parquet may panic over a damaged file, or even abort the process. So the checksum is
checked before anything reads the bytes: it stands in the file's own metadata, and counts as zeros there.
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path

import polars as pl

from critmass.errors import StoreError, verbatim
from critmass.io.files import write_atomic

_NO_DIGITS = b"0" * 64
_SEAL = re.compile(rb"critmass-sealed-([0-9a-f]{64})")


def write_table(path: Path, frame: pl.DataFrame) -> None:
    """Write a table and a checksum over the file, whole or not at all."""
    stream = io.BytesIO()
    frame.write_parquet(stream, metadata={"critmass": f"critmass-sealed-{_NO_DIGITS.decode()}"})
    data = stream.getvalue()
    *_, seal = _SEAL.finditer(data)  # metadata comes last
    digest = hashlib.sha256(data).hexdigest().encode()
    write_atomic(path, data[: seal.start(1)] + digest + data[seal.end(1) :])


def read_table(path: Path) -> pl.DataFrame:
    """Return a table that `write_table` wrote, its checksum verified first.

    Raises
    ------
    StoreError
        If the file is damaged, or no table of ours.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(str(path), verbatim(str(error.strerror)), "a file that can be read") from None
    seals = list(_SEAL.finditer(data))
    if seals:
        seal = seals[-1]
        zeroed = data[: seal.start(1)] + _NO_DIGITS + data[seal.end(1) :]
        if hashlib.sha256(zeroed).hexdigest().encode() == seal[1]:
            return pl.read_parquet(io.BytesIO(data))
    advice = "delete it: the next run writes it again"
    found = "content that does not match its checksum" if seals else "no table that critmass wrote"
    raise StoreError(str(path), verbatim(found), "what was written", advice)
