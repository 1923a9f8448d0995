"""A torch module as a network: layers by name, several in one pass, pooled to (n_samples, n_neurons).

"penultimate" is what the final classifier takes in (or what the source says), "output" what the module
returns, any other layer the output of the module of that name; of a module that is called more than once
in a pass, the last output counts. Hooks live for one pass only.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np

from critmass.errors import InputError, first_line, require, unknown, verbatim
from critmass.sources.inputs.transforms import ImageTransform, Pixels
from critmass.sources.models.pooling import channels_first, check_width, pool
from critmass.sources.protocols import OUTPUT, PENULTIMATE, Activations, Kind, Layer, Sample

PRECISIONS = ("float32", "tf32", "bfloat16", "float16")


@dataclass(frozen=True)
class Point:
    """What the submodule called `module` ("" is the module itself) takes in or gives out.

    `select` takes the tensor out of what is found there, of shape (n_samples, ...).
    """

    module: str
    side: Literal["in", "out"] = "out"
    select: Callable[[Any], Any] | None = None


class Inputs(Protocol):
    """How samples become what a module takes."""

    @property
    def kind(self) -> Kind:
        """What the samples are."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what is done to a sample, as JSON values."""
        ...

    def prepare(self, sample: Sample, draw: np.random.Generator | None) -> Any:
        """Return one sample as `batch` takes it; any thread may call it."""
        ...

    def batch(self, prepared: Sequence[Any], device: str) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
        """Return a module's arguments, its keyword arguments, and the mask of tokens (texts) or None."""
        ...

    def example(self) -> Sample:
        """Return a sample that shows the shapes."""
        ...


@dataclass(frozen=True)
class Images:
    """Images by an `ImageTransform`; bytes until they are on the device."""

    transform: ImageTransform
    kind: Kind = "image"

    def describe(self) -> dict[str, Any]:
        """Return the transform."""
        return self.transform.describe()

    def prepare(self, sample: Sample, draw: np.random.Generator | None) -> Pixels:
        """Return the evaluation view, or an augmented one."""
        return self.transform.evaluate(sample) if draw is None else self.transform.augment(sample, draw)

    def batch(self, prepared: Sequence[Any], device: str) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
        """Return pixels of shape (n, 3, h, w), float32, normalised, channels last in memory."""
        torch = torch_library()
        pixels = torch.from_numpy(np.stack(prepared))
        if device != "cpu":
            pixels = pixels.pin_memory() if device.startswith("cuda") else pixels
            pixels = pixels.to(device, non_blocking=True)
        scale, shift = self._affine(device)
        return (torch.addcmul(shift, pixels.permute(0, 3, 1, 2), scale),), {}, None

    def example(self) -> Sample:
        """Return a grey image."""
        pillow = require("PIL.Image", package="pillow", extra="vision", purpose="reading images")
        return pillow.new("RGB", self.transform.crop[::-1], (128, 128, 128))

    def _affine(self, device: str) -> tuple[Any, Any]:
        torch = torch_library()
        mean, std = np.array(self.transform.mean), np.array(self.transform.std)
        return tuple(
            torch.from_numpy(value.astype(np.float32).reshape(3, 1, 1)).to(device)
            for value in (1.0 / (255.0 * std), -mean / std)
        )


@dataclass(frozen=True)
class TorchNetwork:
    """A frozen torch module.

    Attributes
    ----------
    name : str
    module : torch.nn.Module
    inputs : Inputs
    penultimate : Point
    tokens : "cls", "avg" or "last"
        What pooling "auto" makes of activations of shape (n_samples, n_tokens, n_neurons).
    channels_first : bool
        Whether maps are (n, channels, height, width) rather than channels last, in a layer whose shape and
        kind do not say so themselves (`channels_first`).
    about : mapping
        What is known of the weights beside their hash: packages that compute, the weights' name.
    """

    name: str
    module: Any
    inputs: Inputs
    penultimate: Point
    tokens: Literal["cls", "avg", "last"] = "avg"
    channels_first: bool = True
    about: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    precision: str = "float32"

    @property
    def kind(self) -> Kind:
        """What it reads."""
        return self.inputs.kind

    @functools.cached_property
    def _weights(self) -> str:
        return digest(self.module)

    def describe(self) -> dict[str, Any]:
        """Return the weights' hash, the architecture's, the transform, precision, versions."""
        return {
            "name": self.name,
            "weights": self._weights,
            "architecture": hashlib.sha256(repr(self.module).encode()).hexdigest()[:16],
            "transform": self.inputs.describe(),
            "precision": self.precision,
            **self.about,
            "versions": versions("torch", *self.about.get("versions", ())),
        }

    def layers(self) -> Mapping[str, Layer]:
        """Return every module that gives out one tensor of activations."""
        found: dict[str, Layer] = {}
        names = [PENULTIMATE, OUTPUT, *(name for name, _ in self.module.named_modules() if name)]

        def take(name: str, tensor: Any, _mask: Any) -> None:
            if tensor.ndim >= 2 and tensor.is_floating_point() and len(tensor) == 1:
                shape = tuple(tensor.shape[1:])
                first = len(shape) == 3 and self._channels_first(name, shape)
                found[name] = Layer(shape, shape[0 if first else -1])

        self._run([self.inputs.prepare(self.inputs.example(), None)], names, take)
        return {name: found[name] for name in names if name in found}

    def place(self, device: str, precision: str) -> TorchNetwork:
        """Return the network on a device, computing at a precision."""
        torch = torch_library()
        if precision not in PRECISIONS:
            raise unknown("precision", precision, PRECISIONS)
        try:
            module = self.module.to(device)
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise InputError("device", device, "cpu, or one that torch finds", str(error)) from None
        if self.kind == "image":
            module = module.to(memory_format=torch.channels_last)
        return replace(self, module=module, device=device, precision=precision)

    def prepare(self, sample: Sample, draw: np.random.Generator | None = None) -> Any:
        """Return one sample as a batch takes it."""
        return self.inputs.prepare(sample, draw)

    def start(self, batch: Sequence[Any], layers: Sequence[str], pooling: str) -> Callable[[], Activations]:
        """Start the forward pass of a batch; the callable returned waits for its activations.

        Raises MemoryError where the batch does not fit in the device's memory.
        """
        found: dict[str, Any] = {}

        def take(name: str, tensor: Any, mask: Any) -> None:
            first = self._channels_first(name, tuple(tensor.shape[1:]))
            pooled = pool(tensor, pooling, tokens=self.tokens, channels_first=first, mask=mask)
            check_width(name, pooled, pooling)
            # A view would change with what modules after this one do in place.
            shared = pooled.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
            found[name] = pooled.clone() if shared else pooled

        self._run(batch, layers, take)
        for name in layers:
            if name not in found:
                raise InputError(
                    f"layer {name!r}", verbatim("no tensor of activations"), "critmass list layers shows"
                )
        return lambda: {name: found[name].float().cpu().numpy() for name in layers}

    def _run(
        self, batch: Sequence[Any], layers: Sequence[str], take: Callable[[str, Any, Any], None]
    ) -> None:
        """Run a batch, giving `take` each layer's tensor as it is made, with the mask of tokens or None."""
        torch = torch_library()
        try:
            with torch.inference_mode(), self._computing(torch):
                arguments, keywords, mask = self.inputs.batch(batch, self.device)
                with self._hooks(layers, lambda name, tensor: take(name, tensor, mask)):
                    self.module(*arguments, **keywords)
        except torch.OutOfMemoryError as error:
            raise MemoryError(str(error)) from None

    def _channels_first(self, layer: str, shape: tuple[int, ...]) -> bool:
        module = self.module.get_submodule(layer) if layer not in (PENULTIMATE, OUTPUT) else None
        square = isinstance(self.inputs, Images) and len(set(self.inputs.transform.crop)) == 1
        return channels_first(shape, module, square=square, otherwise=self.channels_first)

    def _point(self, layer: str) -> Point:
        return self.penultimate if layer == PENULTIMATE else Point("" if layer == OUTPUT else layer)

    @contextlib.contextmanager
    def _hooks(self, layers: Sequence[str], take: Callable[[str, Any], None]) -> Iterator[None]:
        def keep(name: str, select: Callable[[Any], Any], value: Any) -> None:
            tensor = select(value)
            if tensor is not None:
                take(name, tensor)

        with contextlib.ExitStack() as stack:
            for name in layers:
                point = self._point(name)
                submodule = self.module.get_submodule(point.module)
                kept = functools.partial(keep, name, point.select or tensor_of)
                if point.side == "in":
                    handle = submodule.register_forward_pre_hook(lambda _m, given, kept=kept: kept(given[0]))
                else:
                    handle = submodule.register_forward_hook(lambda _m, _i, given, kept=kept: kept(given))
                stack.callback(handle.remove)
            yield

    @contextlib.contextmanager
    def _computing(self, torch: Any) -> Iterator[None]:
        """Compute at the precision asked for: float32 is float32, on every device."""
        with contextlib.ExitStack() as stack:
            if self.device.startswith("cuda"):
                stack.enter_context(torch.backends.cudnn.flags(allow_tf32=self.precision == "tf32"))
            if self.precision in ("bfloat16", "float16"):
                kind = self.device.partition(":")[0]
                stack.enter_context(torch.autocast(kind, dtype=getattr(torch, self.precision)))
            yield


def torch_library() -> Any:
    """Return torch, which is optional, or raise MissingExtraError."""
    return require("torch", package="torch", extra="torch", purpose="running networks")


def tensor_of(value: Any) -> Any:
    """Return the tensor of activations in what a module gives out, or None where there is not just one."""
    torch = torch_library()
    if isinstance(value, torch.Tensor):
        return value
    for name in ("last_hidden_state", "logits"):
        if isinstance(getattr(value, name, None), torch.Tensor):
            return getattr(value, name)
    if isinstance(value, tuple | list) and value and isinstance(value[0], torch.Tensor):
        return value[0]
    return None


def classifier_input(module: Any, name: str) -> Point:
    """Return the point before the last linear layer, which is where a classifier's penultimate layer ends."""
    torch = torch_library()
    linear = [path for path, part in module.named_modules() if isinstance(part, torch.nn.Linear)]
    if not linear:
        raise InputError(
            f"penultimate layer of {name}",
            verbatim("no linear classifier"),
            "a network that ends in one",
            "name the layer (critmass list layers)",
        )
    return Point(linear[-1], "in")


def fitting(network: TorchNetwork, image_size: int | None) -> TorchNetwork:
    """Return the network, once an image of the size asked for has passed through it."""
    if image_size is None:
        return network
    try:
        network.start([network.prepare(network.inputs.example())], [PENULTIMATE], "auto")
    except InputError:
        raise
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        raise InputError(
            "image_size", image_size, f"a size that {network.name} takes", first_line(error)
        ) from error
    return network


def frozen(module: Any) -> Any:
    """Return the module in evaluation mode, its weights no longer trainable."""
    return module.eval().requires_grad_(requires_grad=False)


def digest(module: Any) -> str:
    """Return the SHA-256 over every weight and buffer of a module: name, dtype, shape, bytes."""
    torch = torch_library()
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def versions(*packages: str) -> dict[str, str]:
    """Return the installed version of each package."""
    return {package: importlib.metadata.version(package) for package in packages}
