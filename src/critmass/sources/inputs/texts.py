"""Texts as a network takes them: tokens, padded to the longest of their batch.

Tokenizers change their own state when they pad, so texts stay texts until they are a batch, which one
thread makes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from critmass.errors import InputError, verbatim
from critmass.sources.protocols import Kind, Sample


@dataclass(frozen=True)
class Texts:
    """Texts by a tokenizer.

    Attributes
    ----------
    encode : callable (list of str) -> mapping
        Tensors by the name of the module's argument, "attention_mask" among them where texts are padded.
    about : mapping
        What decides the tokens, as JSON values.
    whole : bool
        Whether the module takes the mapping itself rather than its items.
    """

    encode: Callable[[list[str]], Mapping[str, Any]]
    about: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = False
    kind: Kind = "text"

    def describe(self) -> dict[str, Any]:
        """Return what decides the tokens."""
        return dict(self.about)

    def prepare(self, sample: Sample, draw: np.random.Generator | None) -> str:
        """Return the text."""
        if draw is not None:
            raise InputError("views", verbatim("augmented views"), "none for texts")
        return str(sample)

    def batch(self, prepared: Sequence[Any], device: str) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
        """Return the tokens on a device, and their mask of shape (n_samples, n_tokens)."""
        tokens = {
            name: value.to(device) if hasattr(value, "to") else value
            for name, value in self.encode(list(prepared)).items()
        }
        mask = tokens.get("attention_mask")
        return ((tokens,), {}, mask) if self.whole else ((), tokens, mask)

    def example(self) -> Sample:
        """Return a short text."""
        return "A text that shows the shapes."


def tokenizer_digest(tokenizer: Any) -> str:
    """Return the SHA-256 of a tokenizer of transformers: its rules and vocabulary, not how it pads."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    else:
        rules = json.loads(backend.to_str())
        rules.pop("truncation", None)
        rules.pop("padding", None)
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()
