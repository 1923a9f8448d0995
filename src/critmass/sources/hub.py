"""The Hugging Face hub: asked where it answers, and its cache alone where it does not.

Without an answer the hub's libraries try again for half a minute, for each file. So one connection is tried
before they are called; where it is not made, they work offline for the length of that call.
"""

from __future__ import annotations

import contextlib
import contextvars
import socket
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from critmass.errors import first_line, require

WAIT = 2.0
"""Seconds within which the hub must have answered."""

_silent: contextvars.ContextVar[str] = contextvars.ContextVar("silent", default="")
"""The address that did not answer the call under way."""


@contextlib.contextmanager
def hub_or_cache(name: str) -> Iterator[None]:
    """Let the hub's libraries open `name`, a repository or a folder, without waiting for what cannot be had.

    Where the hub does not answer, they are set to work from their cache, and set back afterwards.
    """
    constants = _constants()
    if Path(name).is_dir() or constants.HF_HUB_OFFLINE or answers(constants.ENDPOINT):
        yield
        return
    settings = [constants, *filter(None, [sys.modules.get("datasets.config")])]
    before = [each.HF_HUB_OFFLINE for each in settings]
    token = _silent.set(constants.ENDPOINT)
    try:
        for each in settings:
            each.HF_HUB_OFFLINE = True
        yield
    finally:
        for each, value in zip(settings, before, strict=True):
            each.HF_HUB_OFFLINE = value
        _silent.reset(token)


def reason(error: BaseException) -> str:
    """Return why the hub's libraries could not open something: no answer, or what they say themselves."""
    address = _silent.get()
    return f"no answer from {address}, and not in the cache" if address else first_line(error)


def answers(address: str) -> bool:
    """Return whether a connection to an address, or to the proxy on the way to it, is made in time."""
    parts = urllib.parse.urlsplit(address)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    made: list[bool] = []

    def connect() -> None:
        with contextlib.suppress(OSError):
            socket.create_connection((parts.hostname, port), timeout=WAIT).close()
            made.append(True)

    # In a thread, since looking up a name knows no time limit.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(WAIT)
    return bool(made)


def hub_folder() -> str:
    """Return where huggingface_hub keeps what it fetches."""
    return f"HF_HOME, which is {_constants().HF_HOME}"


def _constants() -> Any:
    return require(
        "huggingface_hub.constants", package="huggingface-hub", extra="hf", purpose="models of the hub"
    )
