"""Models from Python: any torch.nn.Module, or any callable from a batch of samples to activations."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from critmass.errors import InputError, verbatim
from critmass.io.identity import UnknownError, identity
from critmass.sources.inputs.transforms import ImageTransform
from critmass.sources.models.networks import Images, TorchNetwork, classifier_input, frozen
from critmass.sources.protocols import PENULTIMATE, Activations, Kind, Layer, Network, Sample, cpu_only


def wrap(
    model: Any, transform: ImageTransform | None, image_size: int | None, version: str | None = None
) -> Network:
    """Return a network of a module (images, ImageNet's usual transform by default) or of a callable.

    Its features are those of another only where both are the same code on the same values, or were given the
    same `version`. An object that is a `Network` already comes back as it is.
    """
    if isinstance(model, Network):
        for name, value in (("transform", transform), ("image_size", image_size), ("version", version)):
            if value is not None:
                raise InputError(name, value, "none with a network that is loaded")
        return model
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        name = type(model).__name__
        inputs = Images((transform or ImageTransform()).at(image_size))
        about = {"code": _code(model, version, weights=False)}
        point = classifier_input(model, name)
        return TorchNetwork(f"module:{name}", frozen(model), inputs, point, about=about)
    if not callable(model):
        found = verbatim(type(model).__name__)
        raise InputError("model", found, "a name (critmass list models), a torch.nn.Module or a callable")
    if transform is not None or image_size is not None:
        raise InputError(
            "transform", transform or image_size, "none for a callable, which prepares its own samples"
        )
    return Function(model, _code(model, version))


def _code(model: Any, version: str | None, *, weights: bool = True) -> str:
    """Return what tells a module or callable from every other; its own where that cannot be known."""
    if version is not None:
        return f"version {version}"
    try:
        return identity(model, weights=weights)
    except UnknownError as error:
        # Features made from it are never taken for those of another call, nor of this one.
        return f"not known, as of {error}: name a version= ({secrets.token_hex(8)})"


@dataclass(frozen=True)
class Function:
    """A callable: a list of samples (PIL images or texts) -> floats of shape (n_samples, n_neurons).

    Attributes
    ----------
    function : callable
    code : str
        What tells it from every other.
    """

    function: Callable[[list[Sample]], NDArray[Any]]
    code: str
    kind: Kind | None = None

    @property
    def name(self) -> str:
        """Name of the function."""
        return f"function:{getattr(self.function, '__qualname__', type(self.function).__qualname__)}"

    def describe(self) -> dict[str, Any]:
        """Return the name and what tells the function from every other."""
        return {"name": self.name, "code": self.code}

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
            raise InputError(
                "views", verbatim("augmented views"), "none for a callable, which has no transform"
            )
        return sample

    def start(self, batch: Sequence[Any], layers: Sequence[str], pooling: str) -> Callable[[], Activations]:  # noqa: ARG002
        """Call the function."""
        found = np.asarray(self.function(list(batch)))
        if found.ndim != 2 or len(found) != len(batch) or found.dtype.kind != "f":
            raise InputError(
                f"activations of {self.name}",
                verbatim(f"shape {found.shape}, dtype {found.dtype}"),
                f"floats of shape ({len(batch)}, n_neurons)",
            )
        return lambda: dict.fromkeys(layers, found)
