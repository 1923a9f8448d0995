"""An ONNX file as a network: ``onnx:PATH``, computed by onnxruntime.

Layers are the graph's outputs and every inner value by its name. "output" is the first output;
"penultimate" is what the final linear classifier takes in (Gemm, or MatMul and Add, with constant weights,
followed by nothing but Softmax, LogSoftmax or Identity), or the first output where there is none.

A file does not say how to prepare an image. Without the metadata entry ``critmass.transform`` (an
`ImageTransform` in JSON) the transform is ImageNet's usual one, at the graph's input size where it is fixed.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from critmass.errors import InputError, first_line, require, unknown, verbatim
from critmass.io.files import sha256
from critmass.sources.inputs.transforms import ImageTransform, Pixels
from critmass.sources.models.networks import versions
from critmass.sources.models.onnx_graphs import Graph, Input, no_model, read_graph
from critmass.sources.models.pooling import channels_first, check_width, pool
from critmass.sources.protocols import (
    OUTPUT,
    PENULTIMATE,
    Activations,
    Kind,
    Layer,
    ModelRequest,
    Network,
    Sample,
)

METADATA = "critmass.transform"
PRECISIONS = ("float32", "tf32")


def load(rest: str, request: ModelRequest) -> Network:
    """Return the network in an ONNX file.

    Raises
    ------
    InputError
        If the file is no ONNX model of images, refers to files outside its folder, or takes another size.
    """
    path = Path(rest).expanduser()
    model, files = read_graph(path)
    graph, given = Graph.of(model), Input.of(model, path)
    network = OnnxNetwork(
        f"onnx:{path.name}",
        path,
        graph,
        given,
        _transform(path, model, given, request.image_size),
        _digest(files),
        model.SerializeToString(),
    )
    network.start([network.prepare(network.example())], [PENULTIMATE], "auto")
    return network


@dataclass(frozen=True)
class OnnxNetwork:
    """A graph that onnxruntime computes."""

    name: str
    path: Path
    graph: Graph
    given: Input
    transform: ImageTransform
    weights: str
    model: bytes
    kind: Kind = "image"
    device: str = "cpu"
    precision: str = "float32"

    def describe(self) -> dict[str, Any]:
        """Return the hash of the file and its external data, the transform, precision, version."""
        return {
            "name": "onnx",
            "weights": self.weights,
            "penultimate": self.graph.penultimate,
            "transform": self.transform.describe(),
            "precision": self.precision,
            "versions": versions("onnxruntime"),
        }

    def layers(self) -> Mapping[str, Layer]:
        """Return every value that has samples as its rows."""
        return self._layers

    @functools.cached_property
    def _layers(self) -> Mapping[str, Layer]:
        names = (PENULTIMATE, OUTPUT, *self.graph.outputs, *self.graph.inner)
        pixels = self.prepare(self.example())
        # Two samples tell what has samples as its rows.
        found = self._values([pixels, pixels], names)
        return {
            name: Layer(value.shape[1:], value.shape[1 if self._maps_first(value) else -1])
            for name, value in found.items()
            if value.ndim >= 2 and len(value) == 2 and value.dtype.kind == "f"
        }

    def place(self, device: str, precision: str) -> OnnxNetwork:
        """Return the network on the CPU, or on a CUDA device where onnxruntime is built for it."""
        onnxruntime = _onnxruntime()
        kind = device.partition(":")[0]
        known = {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda"}
        allowed = [known[name] for name in onnxruntime.get_available_providers() if name in known]
        if kind not in allowed:
            raise InputError("device", device, f"{', '.join(allowed)}, which this onnxruntime computes on")
        if precision not in (PRECISIONS if kind == "cuda" else PRECISIONS[:1]):
            raise InputError(
                "precision", precision, "float32, or tf32 on cuda: others are in the file itself"
            )
        return replace(self, device=device, precision=precision)

    def example(self) -> Sample:
        """Return a grey image."""
        pillow = require("PIL.Image", package="pillow", extra="onnx", purpose="reading images")
        return pillow.new("RGB", self.transform.crop[::-1], (128, 128, 128))

    def prepare(self, sample: Sample, draw: np.random.Generator | None = None) -> Pixels:
        """Return the pixels of an image, in bytes."""
        return self.transform.evaluate(sample) if draw is None else self.transform.augment(sample, draw)

    def start(self, batch: Sequence[Any], layers: Sequence[str], pooling: str) -> Callable[[], Activations]:
        """Compute a batch."""
        for layer in layers:
            if layer not in (PENULTIMATE, OUTPUT, *self.graph.outputs, *self.graph.inner):
                raise unknown("layer", layer, self.layers())
        found = {
            layer: _pooled(layer, value, pooling, len(batch), maps_first=self._maps_first(value))
            for layer, value in self._values(batch, layers).items()
        }
        return lambda: found

    def _values(self, batch: Sequence[Any], layers: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return activations by layer, not pooled; in batches of the graph's own size where it has one."""
        pixels = np.stack(batch).astype(np.float32) / np.float32(255)
        mean, std = (np.array(value, dtype=np.float32) for value in (self.transform.mean, self.transform.std))
        images = ((pixels - mean) / std).transpose(0, 3, 1, 2).astype(self.given.dtype)
        values = {layer: self._value(layer) for layer in layers}
        names = tuple(dict.fromkeys(values.values()))
        size = self.given.batch or len(images)
        parts = []
        for start in range(0, len(images), size):
            rows = images[start : start + size]
            whole = np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])
            computed = self._computed(names, np.ascontiguousarray(whole))
            parts.append([value[: len(rows)] if np.ndim(value) else value for value in computed])
        joined = {
            name: np.concatenate(each) if np.ndim(each[0]) else np.asarray(each[0])
            for name, each in zip(names, zip(*parts, strict=True), strict=True)
        }
        return {layer: joined[value] for layer, value in values.items()}

    def _computed(self, names: tuple[str, ...], images: NDArray[Any]) -> list[NDArray[Any]]:
        try:
            values: list[NDArray[Any]] = self._session(names).run(list(names), {self.given.name: images})
        except _failures() as error:
            shape = "x".join(map(str, images.shape))
            raise InputError(
                str(self.path), verbatim(first_line(error)), f"a graph that takes {shape}"
            ) from error
        return values

    def _maps_first(self, value: NDArray[Any]) -> bool:
        square = len(set(self.transform.crop)) == 1
        return value.ndim == 4 and channels_first(value.shape[1:], square=square, otherwise=True)

    def _value(self, layer: str) -> str:
        return {PENULTIMATE: self.graph.penultimate, OUTPUT: self.graph.outputs[0]}.get(layer, layer)

    def _session(self, names: tuple[str, ...]) -> Any:
        """Return a session that gives out these values, the graph's own and inner ones."""
        key = (names, self.device, self.precision)
        if key not in self._sessions:
            self._sessions.clear()
            self._sessions[key] = self._new_session(names)
        return self._sessions[key]

    @functools.cached_property
    def _sessions(self) -> dict[tuple[tuple[str, ...], str, str], Any]:
        return {}

    def _new_session(self, names: tuple[str, ...]) -> Any:
        onnx = require("onnx", package="onnx", extra="onnx", purpose="the models onnx:")
        onnxruntime = _onnxruntime()
        model = onnx.load_model_from_string(self.model)
        model.graph.output.extend(
            onnx.ValueInfoProto(name=name) for name in names if name not in self.graph.outputs
        )
        options = onnxruntime.SessionOptions()
        # Messages of level 3, errors, come as exceptions too.
        options.log_severity_level = 4
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(self.path.parent.resolve())
        )
        provider: Any = "CPUExecutionProvider"
        if self.device != "cpu":
            index = int(self.device.partition(":")[2] or 0)
            provider = ("CUDAExecutionProvider", {"device_id": index, "use_tf32": self.precision == "tf32"})
        try:
            return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[provider])
        except _failures() as error:
            raise no_model(self.path, first_line(error)) from error


def _pooled(
    layer: str, value: NDArray[Any], pooling: str, n_samples: int, *, maps_first: bool
) -> NDArray[np.float32]:
    """Return activations of shape (n_samples, n_neurons)."""
    if value.ndim < 2 or len(value) != n_samples or value.dtype.kind != "f":
        found = verbatim(f"shape {value.shape}, {value.dtype}, for {n_samples} samples")
        raise InputError(
            f"layer {layer!r}", found, "floats, a row for each sample", "critmass list layers shows"
        )
    pooled = pool(value, pooling, tokens="avg", channels_first=maps_first)
    check_width(layer, pooled, pooling)
    return np.asarray(pooled, dtype=np.float32)


def _transform(path: Path, model: Any, given: Input, image_size: int | None) -> ImageTransform:
    """Return the transform in the metadata, or ImageNet's usual one, at the size that the graph takes."""
    stated = next((entry.value for entry in model.metadata_props if entry.key == METADATA), None)
    transform = ImageTransform() if stated is None else _stated(path, stated)
    side = image_size
    if side is None and stated is None and given.height == given.width and (given.height or 0) >= 16:
        side = given.height
    transform = transform.at(side)
    fixed = given.height or transform.crop[0], given.width or transform.crop[1]
    if fixed == transform.crop:
        return transform
    if image_size is None and stated is None:
        return replace(transform, crop=fixed, resize=fixed)
    name = "image_size" if stated is None else f"{path}: {METADATA}"
    raise InputError(name, transform.crop, f"{fixed}, to which the graph is fixed")


def _stated(path: Path, text: str) -> ImageTransform:
    known = {field.name for field in fields(ImageTransform)}
    try:
        values = json.loads(text)
        if not isinstance(values, dict) or not values.keys() <= known:
            raise ValueError(f"keys other than {', '.join(sorted(known))}")
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        transform = ImageTransform(**values)
        transform.evaluate(_grey())
        _affine_is_sound(transform)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}: {METADATA}", verbatim(first_line(error)), "an ImageTransform in JSON"
        ) from error
    return transform


def _grey() -> Sample:
    pillow = require("PIL.Image", package="pillow", extra="onnx", purpose="reading images")
    return pillow.new("RGB", (64, 48), (128, 128, 128))


def _affine_is_sound(transform: ImageTransform) -> None:
    values = np.array([transform.mean, transform.std], dtype=np.float64)
    if values.shape != (2, 3) or not np.isfinite(values).all() or (values[1] <= 0).any():
        raise ValueError("mean and std that are not three finite numbers each, std above 0")


def _digest(files: Iterable[Path]) -> str:
    """Return the SHA-256 over the SHA-256 of each file, in order."""
    return hashlib.sha256("".join(sha256(file) for file in files).encode()).hexdigest()


def _failures() -> tuple[type[Exception], ...]:
    """Return the errors of onnxruntime, which have no base in common."""
    purpose = "the models onnx:"
    state = require(
        "onnxruntime.capi.onnxruntime_pybind11_state", package="onnxruntime", extra="onnx", purpose=purpose
    )
    names = ("EPFail", "EngineError", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf")
    found = [getattr(state, name) for name in (*names, "NoSuchFile", "NotImplemented", "RuntimeException")]
    return (*found, RuntimeError, ValueError)


def _onnxruntime() -> Any:
    """Return onnxruntime, which is told before its import to keep and send nothing about its user."""
    for name in ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED"):  # its name differs between versions
        os.environ.setdefault(name, "1")
    return require("onnxruntime", package="onnxruntime", extra="onnx", purpose="the models onnx:")
