"""Parquet files: other people's, where any fault becomes one clear error; and ours, with a checksum."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import polars as pl

from critmass.errors import InputError, StoreError, said
from critmass.files import create_atomic

CHECKSUM = "critmass-sha256"
"""Key, in the metadata of a table of ours, of the checksum over what is in it."""


def read_parquet(path: Path) -> pl.DataFrame:
    """Return the table in a Parquet file.

    Raises
    ------
    InputError
        For a file that is none, or damaged: polars' panics, which are no `Exception`, among others.
    """
    try:
        return pl.read_parquet(path)
    except (Exception, pl.exceptions.PanicException) as error:  # noqa: BLE001
        found = said(f"{type(error).__name__}: {error}")
        raise InputError(str(path), found, "a readable .parquet file", "write the file again") from None


def write_table(path: Path, frame: pl.DataFrame) -> None:
    """Write a table and its checksum, whole or not at all."""
    create_atomic(path, lambda stream: frame.write_parquet(stream, metadata={CHECKSUM: _checksum(frame)}))


def read_table(path: Path) -> pl.DataFrame:
    """Return a table that `write_table` wrote, its checksum verified.

    Raises
    ------
    StoreError
        If the file is damaged, or no table of ours.
    """
    advice = "delete it: the next run writes it again"
    try:
        expected = pl.read_parquet_metadata(path).get(CHECKSUM)
        frame = read_parquet(path)
        found = _checksum(frame) if expected else None
    except (Exception, pl.exceptions.PanicException) as error:  # noqa: BLE001
        raise StoreError(str(path), said(str(error)), "a table that critmass wrote", advice) from None
    if expected is None or expected != found:
        raise StoreError(
            str(path), said("content that does not match its checksum"), "what was written", advice
        )
    return frame


def _checksum(frame: pl.DataFrame) -> str:
    digest = hashlib.sha256()
    for series in frame:
        digest.update(f"{series.name} {series.dtype} {len(series)}".encode(errors="surrogatepass"))
        if series.dtype.is_numeric():
            digest.update(series.is_null().to_numpy().tobytes())
            digest.update(series.fill_null(0).to_numpy().tobytes())
        else:
            digest.update(json.dumps(series.to_list()).encode())
    return digest.hexdigest()
