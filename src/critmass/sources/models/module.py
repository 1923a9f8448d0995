"""Models from Python: any torch.nn.Module, or any callable from a batch of samples to activations."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from critmass.errors import InputError, said
from critmass.sources.base import PENULTIMATE, Activations, Kind, Layer, Network, Sample, cpu_only
from critmass.sources.networks import Images, TorchNetwork, classifier_input, frozen
from critmass.sources.transforms import ImageTransform


def wrap(model: Any, transform: ImageTransform | None, image_size: int | None) -> Network:
    """Return a network of a module (images, ImageNet's usual transform by default) or of a callable.

    An object that is a `Network` already comes back as it is.
    """
    if isinstance(model, Network):
        for name, value in (("transform", transform), ("image_size", image_size)):
            if value is not None:
                raise InputError(name, value, "none with a network that is loaded")
        return model
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        name = type(model).__name__
        inputs = Images((transform or ImageTransform()).at(image_size))
        return TorchNetwork(f"module:{name}", frozen(model), inputs, classifier_input(model, name))
    if not callable(model):
        found = said(type(model).__name__)
        raise InputError("model", found, "a name (critmass list models), a torch.nn.Module or a callable")
    if transform is not None or image_size is not None:
        raise InputError(
            "transform", transform or image_size, "none for a callable, which prepares its own samples"
        )
    return Function(model)


@dataclass(frozen=True)
class Function:
    """A callable: a list of samples (PIL images or texts) -> floats of shape (n_samples, n_neurons).

    Its identity is its name and code; of what it closes over nothing can be known.
    """

    function: Callable[[list[Sample]], NDArray[Any]]
    kind: Kind | None = None

    @property
    def name(self) -> str:
        """Name of the function."""
        return f"function:{getattr(self.function, '__qualname__', type(self.function).__qualname__)}"

    def describe(self) -> dict[str, Any]:
        """Return the name and the hash of the code, where it has any."""
        code = getattr(self.function, "__code__", None)
        names = None if code is None else code.co_code + repr(code.co_names).encode()
        return {"name": self.name, "code": None if names is None else hashlib.sha256(names).hexdigest()}

    def layers(self) -> Mapping[str, Layer]:
        """Return the one layer, of a width that only a call tells."""
        return {PENULTIMATE: Layer((), 0)}

    def place(self, device: str, precision: str) -> Function:
        """Return the same; a callable chooses its own device."""
        cpu_only(self.name, device, precision)
        return self

    def prepare(self, sample: Sample, draw: np.random.Generator | None = None) -> Sample:
        """Return the sample."""
        if draw is not None:
            raise InputError("views", said("augmented views"), "none for a callable, which has no transform")
        return sample

    def start(self, batch: Sequence[Any], layers: Sequence[str], pooling: str) -> Callable[[], Activations]:  # noqa: ARG002
        """Call the function."""
        found = np.asarray(self.function(list(batch)))
        if found.ndim != 2 or len(found) != len(batch) or found.dtype.kind != "f":
            raise InputError(
                f"activations of {self.name}",
                said(f"shape {found.shape}, dtype {found.dtype}"),
                f"floats of shape ({len(batch)}, n_neurons)",
            )
        return lambda: dict.fromkeys(layers, found)
