"""Weights that a library fetches: what is said where they are neither here nor to be had.

Files of weights cannot run code: safetensors first, else torch's own format read with weights_only.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from critmass.errors import InputError, first_line, require, verbatim
from critmass.sources.hub import hub_folder, reason
from critmass.sources.models.networks import torch_library


def unavailable(name: str, origin: str, folder: str, error: BaseException) -> InputError:
    """Return the error for weights that are not in `folder` and cannot be fetched from `origin`."""
    return InputError(
        name,
        verbatim(f"no weights that can be read ({reason(error)})"),
        f"those of {origin}",
        f"fetch them where there is a network; they are looked for in {folder}",
    )


def torch_folder() -> str:
    """Return where torch keeps what it fetches."""
    torch = torch_library()
    return f"torch hub's folder, which is {torch.hub.get_dir()}"


def transformers_library(*, extra: str, purpose: str) -> Any:
    """Return transformers. Its parts are imported when first used: what they all need is imported here."""
    require("transformers.modeling_utils", package="transformers", extra=extra, purpose=purpose)
    return require("transformers", package="transformers", extra=extra, purpose=purpose)


def from_hub(name: str, opener: Callable[..., Any]) -> Any:
    """Return what transformers opens at `name`, a repository of the hub or a folder."""
    origin = f"the folder {name}" if Path(name).is_dir() else f"huggingface.co/{name}"
    try:
        return opener(name, trust_remote_code=False)
    except OSError as error:
        raise unavailable(name, origin, hub_folder(), error) from error
    except ValueError as error:
        raise InputError(
            name, verbatim(first_line(error)), "a model that transformers knows without code of its own"
        ) from error


def safely(opener: Callable[..., Any]) -> Callable[..., Any]:
    """Return `opener`, made to read safetensors, or where there are none torch's format without code."""

    def opened(name: str, **settings: Any) -> Any:
        try:
            return opener(name, use_safetensors=True, **settings)
        except OSError:
            return opener(name, use_safetensors=False, **settings)

    return opened


def short_name(rest: str) -> str:
    """Return a repository's name, or of a folder's path its last part."""
    return Path(rest).resolve().name if Path(rest).is_dir() else rest
