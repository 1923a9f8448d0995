"""A file of weights for a known architecture: ``checkpoint:ARCH@PATH``.

The backbone is strict: every parameter and buffer up to the penultimate layer has to be in the file, in the
right shape. The classifier may be missing, as in self-supervised checkpoints, or have any number of classes.
What else the file holds has to be of a known kind (projection heads, decoders, queues, second copies of the
network, an attacker), and is reported by `describe`.
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from critmass.errors import InputError, require, verbatim
from critmass.sources.models.networks import Images, TorchNetwork, frozen
from critmass.sources.models.state_dicts import StateDict, read_state_dict
from critmass.sources.protocols import ModelRequest, Network

PREFIXES = (
    *("module", "model", "_orig_mod", "net", "network", "backbone", "encoder", "teacher", "student"),
    *("encoder_q", "base_encoder", "momentum_encoder", "encoder_k", "ema", "attacker"),
)
"""What wrappers and training scripts put before a parameter's name; of two copies of the network in one
file, the one whose prefix comes first here is taken: MoCo's query encoder, the teacher."""

PASSENGERS = {
    "nested heads": r"fc\.nesting_classifier_\d+\.",
    "projection head": r"(fc|head|heads|classifier|linear|projector|projection_head|predictor|prototypes"
    r"|mlp_head|contrastive_head)\.",
    "decoder": r"(decoder\w*\.|decoder_pos_embed$|mask_token$)",
    "queue": r"queue(_ptr)?$",
    "normaliser": r"normalizer?\.",
}
"""Kinds of tensors that need no place in the architecture, by the beginning of their names."""


def load(rest: str, request: ModelRequest) -> Network:
    """Return the network ``ARCH@PATH``; its penultimate layer is what the classifier takes in.

    Raises
    ------
    InputError
        If the architecture is unknown, the file is not weights, or the two do not fit.
    """
    require("torch", package="torch", extra="vision", purpose="the models checkpoint:")
    name, at, given = rest.partition("@")
    if not (name and at and given):
        raise InputError(
            "model",
            f"checkpoint:{rest}",
            "checkpoint:ARCH@PATH",
            "such as checkpoint:torchvision/resnet50@weights.safetensors",
        )
    path = Path(given).expanduser()
    # torch is imported with these, so not before it is known to be there.
    architectures = importlib.import_module("critmass.sources.models.architectures")
    network = architectures.architecture(name, image_size=request.image_size)
    state = read_state_dict(path, network.module)
    fitted = _fitted(network, state, path)
    inputs = network.inputs
    if fitted.normaliser is not None:
        mean, std = fitted.normaliser
        inputs = Images(replace(inputs.transform, mean=mean, std=std))
    about = {
        **network.about,
        "name": f"checkpoint:{network.name}",
        "found_under": "/".join(filter(None, (state.wrapper, fitted.prefix.rstrip(".")))),
        "classifier": fitted.classifier,
        "left_out": fitted.left_out,
    }
    found: Network = replace(
        network,
        name=f"checkpoint:{name}@{path.name}",
        module=frozen(network.module),
        inputs=inputs,
        about=about,
    )
    return found


@dataclass(frozen=True)
class _Fitted:
    """What became of a file's tensors: where the network was, and how many of each kind have no place."""

    prefix: str
    classifier: str
    left_out: Mapping[str, int]
    normaliser: tuple[tuple[float, ...], tuple[float, ...]] | None


def _fitted(network: TorchNetwork, state: StateDict, path: Path) -> _Fitted:
    """Load the tensors into the network's module, strictly, and say what was left out."""
    module, point = network.module, network.penultimate
    classifier = point.module if point.side == "in" else None
    backbone = [name for name in module.state_dict() if not name.startswith(f"{classifier}.")]
    copies = _copies(state.tensors, backbone)
    prefix = copies[0] if copies else ""
    keys = {name.removeprefix(prefix): name for name in state.tensors if name.startswith(prefix)}
    renamed = {}
    if classifier is not None:
        renamed = _fit_classifier(
            module, classifier, {ours: state.tensors[key] for ours, key in keys.items()}
        )
    keys |= {ours: keys[theirs] for ours, theirs in renamed.items()}
    wanted = module.state_dict()
    used = {name: keys[name] for name in wanted if name in keys}
    missing = [name for name in wanted if name not in keys and not name.endswith("num_batches_tracked")]
    misshapen = [name for name, key in used.items() if not _alike(state.tensors[key], wanted[name])]
    kinds = {name: _kind(name, copies, prefix) for name in state.tensors.keys() - set(used.values())}
    unexpected = sorted(name for name, kind in kinds.items() if kind is None)
    if missing or misshapen or unexpected:
        raise _no_fit(network.name, path, missing=missing, misshapen=misshapen, unexpected=unexpected)
    module.load_state_dict({**wanted, **{name: state.tensors[key] for name, key in used.items()}})
    return _Fitted(
        prefix,
        "in the file" if renamed else "none",
        dict(sorted(Counter(filter(None, kinds.values())).items())),
        _normaliser(state.tensors),
    )


def _copies(tensors: Iterable[str], backbone: Collection[str]) -> list[str]:
    """Return the prefixes under which a file has the backbone: the fullest first, then as in PREFIXES."""
    places, counts = set(backbone), Counter[str]()
    for name in tensors:
        prefix, rest = "", name
        while True:
            counts[prefix] += rest in places
            part, dot, after = rest.partition(".")
            if part not in PREFIXES or not dot:
                break
            prefix, rest = f"{prefix}{part}.", after

    def preference(prefix: str) -> tuple[int, int]:
        rank = max((PREFIXES.index(part) for part in prefix.split(".")[:-1]), default=-1)
        return -counts[prefix], rank

    return sorted((prefix for prefix, count in counts.items() if count > len(places) / 2), key=preference)


def _fit_classifier(module: Any, path: str, given: Mapping[str, Any]) -> dict[str, str]:
    """Give the module the file's classifier, or none; return its tensors' names in the file by ours."""
    nn = require("torch.nn", package="torch", extra="vision", purpose="the models checkpoint:")
    theirs = path
    one_of_many = re.compile(rf"{re.escape(path)}\.nesting_classifier_\d+\.weight")
    nested = [name for name in given if one_of_many.fullmatch(name)]
    if nested:
        # One classifier for each of the first 8, 16, ... features; the widest reads the whole.
        theirs = max(nested, key=lambda name: given[name].shape[-1]).removesuffix(".weight")
    ours = module.get_submodule(path)
    weight, bias = given.get(f"{theirs}.weight"), given.get(f"{theirs}.bias")
    if weight is None or not hasattr(ours, "weight"):
        _replace(module, path, nn.Identity())
        return {}
    if isinstance(ours, nn.Linear) and weight.ndim == 2:
        _replace(module, path, type(ours)(ours.in_features, len(weight), bias=bias is not None))
    parts = ("weight",) if bias is None else ("weight", "bias")
    return {f"{path}.{part}": f"{theirs}.{part}" for part in parts}


def _replace(module: Any, path: str, part: Any) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, part)


def _alike(given: Any, wanted: Any) -> bool:
    """Return whether a tensor can take another's place: its shape, dense, and floats for floats."""
    if given.layout != wanted.layout or given.is_quantized or given.shape != wanted.shape:
        return False
    return bool(given.is_floating_point() == wanted.is_floating_point())


def _kind(name: str, copies: list[str], prefix: str) -> str | None:
    """Return what a tensor without a place is, or None where that is unknown."""
    if any(copy and name.startswith(copy) for copy in copies[1:]):
        return "second copy of the network"
    bare = name
    while bare.partition(".")[0] in PREFIXES and "." in bare:
        bare = bare.partition(".")[2]
    for kind, pattern in PASSENGERS.items():
        if re.match(pattern, name.removeprefix(prefix)) or re.match(pattern, bare):
            return kind
    return None


def _normaliser(tensors: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the channels' mean and standard deviation that the robustness library keeps with a network."""
    found = []
    for part in ("new_mean", "new_std"):
        name = next((n for n in tensors if n.endswith(f"normalizer.{part}")), None)
        if name is None or tensors[name].numel() != 3:
            return None
        # By their shortest decimals: 0.485, not the float32 nearest to it.
        found.append(tuple(float(str(value)) for value in tensors[name].float().reshape(-1).numpy()))
    return found[0], found[1]


def _no_fit(name: str, path: Path, **faults: list[str]) -> InputError:
    counts = ", ".join(f"{len(names)} {fault}" for fault, names in faults.items() if names)
    first = "; ".join(f"{fault}: {', '.join(names[:3])}" for fault, names in faults.items() if names)
    return InputError(
        str(path),
        verbatim(f"weights that do not fit {name}: {counts} tensors"),
        "the weights of that architecture; only its classifier may be missing",
        f"{first}",
    )
