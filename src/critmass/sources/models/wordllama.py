"""WordLlama's static token embeddings, d = 256, with the weights that its package carries: no torch.

They were trained with the Matryoshka loss: the first k neurons were meant to be a representation.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from critmass.errors import InputError, require, unknown, verbatim
from critmass.sources.models.networks import versions
from critmass.sources.protocols import (
    PENULTIMATE,
    Activations,
    Kind,
    Layer,
    ModelRequest,
    Network,
    Sample,
    cpu_only,
)


def load(_rest: str, request: ModelRequest) -> Network:
    """Return the embeddings."""
    if request.image_size is not None:
        raise InputError("image_size", request.image_size, "none for wordllama:, which reads texts")
    with _logging_untouched():
        package = require("wordllama", package="wordllama", extra="text", purpose="the model wordllama:")
    # The package looks for its own tokenizer in another folder than it lies in, unless told.
    home = Path(package.__file__).parent
    try:
        return Embeddings(package.WordLlama.load(cache_dir=home, disable_download=True))
    except FileNotFoundError as error:
        raise InputError(
            "wordllama:", verbatim(str(error)), f"the weights of its package, in {home}"
        ) from error


@dataclass(frozen=True)
class Embeddings:
    """The mean of a text's token embeddings, as WordLlama's own ``embed`` gives it.

    Attributes
    ----------
    inference : wordllama.WordLlamaInference
    """

    inference: Any
    name: str = "wordllama:"
    kind: Kind = "text"

    @functools.cached_property
    def _weights(self) -> str:
        return hashlib.sha256(self.inference.embedding.tobytes()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return the hashes of weights and tokenizer, and the version."""
        tokenizer = hashlib.sha256(self.inference.tokenizer.to_str().encode()).hexdigest()
        return {
            "name": self.name,
            "weights": self._weights,
            "tokenizer": tokenizer,
            "versions": versions("wordllama"),
        }

    def layers(self) -> Mapping[str, Layer]:
        """Return the one layer."""
        d = self.inference.embedding.shape[1]
        return {PENULTIMATE: Layer((d,), d)}

    def place(self, device: str, precision: str) -> Embeddings:
        """Return the same."""
        cpu_only(self.name, device, precision)
        return self

    def prepare(self, sample: Sample, draw: np.random.Generator | None = None) -> str:
        """Return the text."""
        if draw is not None:
            raise InputError("views", verbatim("augmented views"), "none for texts")
        return str(sample)

    def start(self, batch: Sequence[Any], layers: Sequence[str], pooling: str) -> Callable[[], Activations]:  # noqa: ARG002
        """Embed texts."""
        for layer in layers:
            if layer != PENULTIMATE:
                raise unknown(f"layer of {self.name}", layer, [PENULTIMATE])
        found = self.inference.embed(list(batch))
        return lambda: dict.fromkeys(layers, found)


@contextlib.contextmanager
def _logging_untouched() -> Iterator[None]:
    """Undo what the package's import does to the logging of the whole program."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
