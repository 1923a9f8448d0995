"""What is in an ONNX file: what it takes in and gives out, its classifier, the files its weights lie in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from critmass.errors import InputError, first_line, require, verbatim

PURPOSE = "the models onnx:"
AFTER_CLASSIFIER = ("Softmax", "LogSoftmax", "Identity")


def read_graph(path: Path) -> tuple[Any, list[Path]]:
    """Return an ONNX model, without the weights it keeps in files beside it, and all its files.

    Raises
    ------
    InputError
        If the file is no ONNX model, or refers to files that are missing or outside its folder.
    """
    onnx = require("onnx", package="onnx", extra="onnx", purpose=PURPOSE)
    message = require("google.protobuf.message", package="onnx", extra="onnx", purpose=PURPOSE)
    if not path.is_file():
        raise InputError("ONNX file", str(path), "a file that exists")
    try:
        model = onnx.load_model(path, load_external_data=False)
    except (OSError, ValueError, RuntimeError, message.DecodeError) as error:
        raise no_model(path, first_line(error)) from error
    if not model.graph.output:
        raise no_model(path, "no graph that gives anything out")
    return model, [path, *_external_files(path, model)]


def no_model(path: Path, found: str) -> InputError:
    """Return the error for a file that is no model."""
    return InputError(
        str(path), verbatim(found), "an ONNX model that onnxruntime can compute", "export it again"
    )


@dataclass(frozen=True)
class Input:
    """The graph's one input: its name, type, and the batch, height and width it is fixed to, or None."""

    name: str
    dtype: Any
    batch: int | None
    height: int | None
    width: int | None

    @classmethod
    def of(cls, model: Any, path: Path) -> Input:
        """Read a model; raise InputError if it does not take in RGB images, channels first."""
        weights = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in weights]
        onnx = require("onnx", package="onnx", extra="onnx", purpose=PURPOSE)
        kinds = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.FLOAT16: np.float16}
        if len(inputs) == 1:
            tensor = inputs[0].type.tensor_type
            sizes = [size.dim_value or None for size in tensor.shape.dim]
            if len(sizes) == 4 and sizes[1] in (3, None) and tensor.elem_type in kinds:
                return cls(inputs[0].name, kinds[tensor.elem_type], sizes[0], sizes[2], sizes[3])
            found = f"{onnx.TensorProto.DataType.Name(tensor.elem_type)} of shape {sizes}"
        else:
            found = f"{len(inputs)} inputs"
        allowed = "one input: float images of shape (n_samples, 3, height, width)"
        raise InputError(str(path), verbatim(found), allowed)


@dataclass(frozen=True)
class Graph:
    """Names of a graph's values: those it gives out, the inner ones, and the penultimate layer."""

    outputs: tuple[str, ...]
    inner: tuple[str, ...]
    penultimate: str

    @classmethod
    def of(cls, model: Any) -> Graph:
        """Read a model."""
        outputs = tuple(value.name for value in model.graph.output)
        constants = _constants(model.graph)
        inner = tuple(
            name
            for node in model.graph.node
            for name in node.output
            if name and name not in constants and name not in outputs
        )
        return cls(outputs, inner, _classifier_input(model.graph, constants))


def _constants(graph: Any) -> set[str]:
    """Return the names of values that do not depend on the input."""
    found = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if all(name in found for name in node.input if name) and not node.op_type.startswith("Random"):
            found |= set(node.output)
    return found


def _classifier_input(graph: Any, constants: set[str]) -> str:
    """Return the name of what the final linear classifier takes in, or of the first output."""
    makers = {name: node for node in graph.node for name in node.output}
    output: str = graph.output[0].name
    node = makers.get(output)
    while node is not None and node.op_type in AFTER_CLASSIFIER:
        node = makers.get(node.input[0])
    if node is not None and node.op_type == "Add":
        terms = [name for name in node.input if name not in constants]
        node = makers.get(terms[0]) if len(terms) == 1 else None
        if node is not None and node.op_type != "MatMul":
            node = None
    if node is None or node.op_type not in ("Gemm", "MatMul") or node.input[1] not in constants:
        return output
    return str(node.input[0])


def _external_files(path: Path, model: Any) -> list[Path]:
    """Return the files beside the model that hold its tensors; refuse any outside its folder."""
    folder = path.parent.resolve()
    found = set()
    for tensor in _tensors(model):
        for entry in tensor.external_data:
            if entry.key != "location":
                continue
            file = (folder / entry.value).resolve()
            if not file.is_relative_to(folder) or Path(entry.value).is_absolute():
                raise InputError(
                    str(path), verbatim(f"weights in {entry.value}"), "weights in the folder of the model"
                )
            if not file.is_file():
                raise InputError(
                    str(path), verbatim(f"no {entry.value} beside it"), "a whole model, with its data"
                )
            found.add(file)
    return sorted(found)


def _tensors(model: Any) -> Iterator[Any]:
    """Return every tensor of a model, in the graphs within its graph and in its functions too."""
    graphs: list[Any] = [model.graph]
    nodes = [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes.extend(graph.node)
            continue
        for attribute in nodes.pop().attribute:
            yield from (attribute.t, *attribute.tensors)
            graphs.extend(attribute.graphs)
            if attribute.HasField("g"):
                graphs.append(attribute.g)
