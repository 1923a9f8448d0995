"""Activations that have positions, of NumPy or torch -> (n_samples, n_neurons)."""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

from critmass.errors import InputError, unknown, verbatim
from critmass.sources.protocols import POOLINGS

MAX_WIDTH = 65_536


def check_width(layer: str, pooled: Any, pooling: str) -> None:
    """Raise InputError for more neurons than one layer may have."""
    if pooled.shape[1] > MAX_WIDTH:
        raise InputError(
            f"layer {layer!r}",
            verbatim(f"{pooled.shape[1]} neurons with pooling {pooling!r}"),
            f"up to {MAX_WIDTH}",
            "choose pooling avg, max or cls",
        )


def pool(tensor: Any, pooling: str, *, tokens: str, channels_first: bool, mask: Any = None) -> Any:
    """Return activations of shape (n_samples, ...), of NumPy or torch, as (n_samples, n_neurons).

    Parameters
    ----------
    pooling : str
        "avg" and "max" over positions (of tokens: those in `mask`), "cls" the first token, "last" the last
        token in `mask`, "flatten" every position a neuron of its own, "none" refuses positions. "auto":
        "avg" over places of an image, `tokens` over tokens.
    mask : tensor of shape (n_samples, n_tokens), optional
        1 for tokens, 0 for padding.
    """
    if pooling not in POOLINGS:
        raise unknown("pooling", pooling, POOLINGS)
    if tensor.ndim == 2 or pooling == "flatten":
        if pooling == "flatten" and mask is not None and tensor.ndim == 3:
            raise InputError("pooling", pooling, "avg, max, cls or last for texts, which differ in length")
        return tensor.reshape(len(tensor), -1)
    if pooling == "none":
        found = verbatim(f"activations of shape {tuple(tensor.shape[1:])} for a sample")
        raise InputError(
            "pooling", found, "none where a layer has no positions", "choose avg, max or flatten"
        )
    if tensor.ndim == 3:
        if mask is not None and mask.shape != tensor.shape[:2]:
            mask = None
        return _pooled_tokens(tensor, tokens if pooling == "auto" else pooling, mask)
    if pooling in ("cls", "last"):
        raise InputError("pooling", pooling, "avg, max or flatten for a layer that has no tokens")
    if channels_first:
        return _over(tensor.reshape(*tensor.shape[:2], -1), pooling, axis=2)
    return _over(tensor.reshape(len(tensor), -1, tensor.shape[-1]), pooling, axis=1)


def channels_first(shape: tuple[int, ...], module: Any = None, *, square: bool, otherwise: bool) -> bool:
    """Return whether a map of `shape`, without the samples, is (channels, height, width) or channels last.

    One network has both: ConvNeXt's blocks give channels first and compute with channels last inside. Of
    `square` images, the two sides that are equal are height and width. Where the channels are as many, or the
    images not square, a linear layer and its normalisation say last, a convolution first, and what else there
    is follows the network.
    """
    if len(shape) != 3:
        return otherwise
    if square and (shape[0] == shape[1]) != (shape[1] == shape[2]):
        return shape[1] == shape[2]
    kind = type(module).__name__
    if kind in ("Linear", "LayerNorm"):
        return False
    return True if kind.startswith(("Conv", "BatchNorm")) else otherwise


def _over(tensor: Any, pooling: str, *, axis: int) -> Any:
    """Return the maximum or the mean over the positions along an axis."""
    xp = array_namespace(tensor)
    return (xp.max if pooling == "max" else xp.mean)(tensor, axis=axis)


def _pooled_tokens(tensor: Any, pooling: str, mask: Any) -> Any:
    if pooling == "cls":
        return tensor[:, 0]
    if mask is None:
        return tensor[:, -1] if pooling == "last" else _over(tensor, pooling, axis=1)
    weight = mask.to(tensor.dtype).unsqueeze(-1)
    if pooling == "avg":
        return (tensor * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
    if pooling == "max":
        return tensor.masked_fill(weight == 0, float("-inf")).amax(1)
    last = mask.cumsum(1).argmax(1)
    return tensor.gather(1, last[:, None, None].expand(-1, 1, tensor.shape[2]))[:, 0]
