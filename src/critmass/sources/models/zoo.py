"""The paper's models: ``zoo:NAME``. Which there are, and where their weights lie, is in sources/zoo.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from critmass.errors import unknown
from critmass.io.downloads import fetch
from critmass.progress import Progress
from critmass.sources import open_model
from critmass.sources.protocols import ModelRequest, Network
from critmass.sources.zoo import Entry, entries


def load(rest: str, request: ModelRequest) -> Network:
    """Return a model of the zoo; its weights are fetched where they are not in the cache."""
    known = {entry.name: entry for entry in entries()}
    if rest not in known:
        raise unknown("model of the zoo", rest, known)
    entry = known[rest]
    network: Any = open_model(_opens(entry, request.progress), image_size=request.image_size)
    found: Network = replace(network, name=f"zoo:{rest}")
    return found


def _opens(entry: Entry, progress: Progress) -> str:
    """Return the name of a model without the zoo, its file in place."""
    if entry.url is None:
        return entry.opens
    fetch(entry.url, entry.path, progress=progress)
    return f"checkpoint:{entry.opens}@{entry.path}"
