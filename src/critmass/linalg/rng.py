"""Named seed streams: one seed, and a name for every use of it. No global state.

Adding a use never shifts another's numbers, because each stream is keyed by its name
(``numpy.random.SeedSequence`` over the seed and a hash of the name).
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from critmass.errors import InputError


def stream(seed: int, *name: str | int) -> np.random.Generator:
    """Return the generator that `seed` gives for the use called `name`.

    Examples
    --------
    >>> bool((stream(0, "parts", 1).permutation(5) == stream(0, "parts", 1).permutation(5)).all())
    True
    """
    if seed < 0:
        raise InputError("seed", seed, "0 or more")
    digest = hashlib.sha256("/".join(map(str, name)).encode()).digest()
    key = np.frombuffer(digest, dtype=np.uint32).tolist()
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=key))


def torch_randperm(seed: int, n: int) -> NDArray[np.intp]:
    """Return ``torch.manual_seed(seed); torch.randperm(n)`` (CPU) as NumPy indices, without torch.

    Torch's CPU generator is MT19937 seeded like NumPy's legacy one, and ``randperm`` is a
    Fisher-Yates shuffle that draws one 32-bit number a step. Checked against torch in the tests.
    """
    if not 0 <= seed < 2**32:
        raise InputError("seed", seed, "0 to 2**32 - 1, with the number of repeats added")
    # The legacy generator is the point here: it is what torch's own CPU generator is.
    draws = np.random.RandomState(seed).randint(0, 2**32, size=max(n - 1, 0), dtype=np.uint32)
    order = list(range(n))
    for i, draw in enumerate(draws.tolist()):
        j = i + draw % (n - i)
        order[i], order[j] = order[j], order[i]
    return np.array(order, dtype=np.intp)
