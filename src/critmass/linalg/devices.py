"""Where products run: NumPy or torch; threads, and the memory there is."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from critmass.errors import InputError, require, verbatim

ParallelMap = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]
"""A map over items."""


@dataclass(frozen=True)
class Device:
    """Where matrix products run.

    Attributes
    ----------
    name : str
        "cpu": NumPy. "torch:cpu", "cuda", "cuda:1": torch on that device.
    """

    name: str

    @property
    def torch_name(self) -> str | None:
        """What torch calls the device; None for NumPy."""
        return None if self.name == "cpu" else self.name.removeprefix("torch:")

    @property
    def xp(self) -> Any:
        """The array API namespace: NumPy's functions, or torch's under the same names."""
        library = "numpy" if self.torch_name is None else "torch"
        return importlib.import_module(f"array_api_compat.{library}")

    def put(self, array: Any, dtype: str | None = None) -> Any:
        """Return a NumPy array as an array on this device, with this dtype where one is named."""
        kind = None if dtype is None else getattr(self.xp, dtype)
        if self.torch_name is None:
            return np.asarray(array, dtype=kind)
        return self.xp.asarray(np.ascontiguousarray(array), dtype=kind, device=self.torch_name)

    def get(self, array: Any) -> Any:
        """Return an array on this device as a NumPy array."""
        return array if self.torch_name is None else array.cpu().numpy()


CPU = Device("cpu")


def resolve_device(name: str) -> Device:
    """Return the device called `name`.

    Raises
    ------
    InputError
        For a name that torch does not know, or a device that is not there.
    MissingExtraError
        If torch is needed and not installed.
    """
    device = Device(name)
    if device.torch_name is not None:
        torch = require("torch", package="torch", extra="torch", purpose=f"device {name!r}")
        try:
            torch.zeros(1, dtype=torch.float64, device=device.torch_name)
        except (RuntimeError, AssertionError, TypeError) as error:
            here = f"{torch.cuda.device_count()} CUDA devices here"
            raise InputError(
                "device", name, f"cpu (NumPy), torch:cpu, cuda, cuda:N ({here})", str(error).split("\n")[0]
            ) from None
    return device


def one_thread() -> AbstractContextManager[Any]:
    """Limit BLAS to one thread inside the context, and give back what was there before."""
    context: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return context


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def threads() -> int:
    """Return how many threads BLAS may use now, which bounds ours too (OMP_NUM_THREADS bounds both)."""
    found = [library["num_threads"] for library in _controller().info() if library["user_api"] == "blas"]
    return max(found, default=1)


@contextlib.contextmanager
def parallel_map(device: Device) -> Iterator[ParallelMap]:
    """Yield ``each(work, items)``: the list of ``work(item)``, several at once on the CPU with NumPy.

    As many threads as BLAS may use, each with a BLAS of one thread: so elementwise work is parallel too,
    and the bits of a result do not depend on the number of threads.
    """
    if device.torch_name is not None:
        yield lambda work, items: [work(item) for item in items]
        return
    count = threads()
    with one_thread(), ThreadPoolExecutor(count) as pool:
        yield lambda work, items: list(pool.map(work, items))


def require_memory(name: str, needed: float, allowed: float, advice: str) -> None:
    """Raise InputError where `needed` bytes are more than the `allowed` ones."""
    if needed > allowed:
        raise InputError(
            name, verbatim(f"work of {needed / 2**30:.3g} GiB"), f"at most {allowed / 2**30:.3g} GiB", advice
        )


def available_memory() -> float:
    """Return how many bytes of memory are free for the taking; infinity where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith("MemAvailable"))) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return float("inf")
