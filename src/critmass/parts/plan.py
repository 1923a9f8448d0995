"""What scores see of parts: groups of prefixes, the columns they take, and where their values go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from critmass.linalg.matrices import Indices
from critmass.parts.groups import PrefixGroup
from critmass.parts.parts import Parts


@dataclass(frozen=True)
class Plan:
    """All parts that a score is to measure, and the whole.

    Attributes
    ----------
    parts : Parts
    sizes : array of shape (n_sizes,)
        Ascending; the last is the whole layer.
    groups : sequence of PrefixGroup
        The last is the whole layer, in its own order.
    drawn_order : array of shape (n_neurons,)
        The neurons in the order of the first repeat; in their own where its parts are not of neurons. For
        what is drawn for each neuron of the whole, so that their order in the layer is no matter.
    """

    parts: Parts
    sizes: Indices
    groups: Sequence[PrefixGroup]
    drawn_order: Indices

    @classmethod
    def of(cls, parts: Parts, sizes: Indices) -> Plan:
        """Return the plan of the parts of these sizes."""
        whole = PrefixGroup(np.arange(parts.n_neurons), sizes[-1:], parts.repeats, np.array([len(sizes) - 1]))
        groups = parts.groups(sizes)
        drawn = next((group.order for group in groups[:1] if group.basis is whole.basis), whole.order)
        return cls(parts, sizes, (*(group for group in groups if len(group.sizes)), whole), drawn)

    @property
    def n_repeats(self) -> int:
        """Parts of each size."""
        return self.parts.repeats

    @property
    def n_neurons(self) -> int:
        """Width of the layer, d."""
        return self.parts.n_neurons

    @property
    def n_columns(self) -> int:
        """Number of columns that `gather` makes."""
        return self.parts.n_columns

    @property
    def shape(self) -> tuple[int, int]:
        """(n_repeats + 1, n_sizes): that of a value for each part, and last for the whole."""
        return (self.n_repeats + 1, len(self.sizes))

    @property
    def whole(self) -> PrefixGroup:
        """The group of the whole layer."""
        return self.groups[-1]

    def gather(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the columns that groups take, for rows x of shape (n, n_neurons): (n, n_columns).

        The neurons come first. x is what the score uses of the whole: where it standardises, standardised
        already; the columns of a dense basis are not standardised again.
        """
        return self.parts.columns(x)

    def scatter(self, values: Iterable[tuple[int, Any, Any]]) -> NDArray[Any]:
        """Return values of parts as one array of shape (n_repeats + 1, n_sizes, ...), the whole's last.

        `values` are (repeat, size_index, value); value has the shape of size_index, and whatever follows.
        The whole's is the same beside every size, and that of the part of size d where this is the whole.
        """
        out: NDArray[Any] = np.empty(0)
        for number, (repeat, index, value) in enumerate(values):
            value = np.asarray(value)
            if number == 0:
                out = np.empty((*self.shape, *value.shape[np.ndim(index) :]), value.dtype)
            out[repeat, index] = value
        return self.share_whole(out)

    def of_groups(self, values: Iterable[Any]) -> NDArray[Any]:
        """Return `scatter` of values that are given group by group, each (n_sizes_here, ...)."""
        pairs = zip(self.groups, values, strict=True)
        return self.scatter((group.repeat, group.size_index, value) for group, value in pairs)

    def share_whole(self, values: NDArray[Any]) -> NDArray[Any]:
        """Give the whole's value, the last of `values`, to all that it stands for; in place."""
        whole = values[-1, -1].copy()
        values[-1] = whole
        if self.parts.ends_whole:
            values[:, -1] = whole
        return values

    def only(self, repeat: int, size: int) -> Plan:
        """Return the plan of one part, of which other entries of tables are not filled; and of the whole."""
        index = int(np.searchsorted(self.sizes, size))
        found = []
        for group in self.groups[:-1]:
            here = group.size_index == index
            if group.repeat == repeat and here.any():
                found.append(replace(group, sizes=group.sizes[here], size_index=group.size_index[here]))
        return replace(self, groups=(*found, self.whole))

    def by_group(self, table: NDArray[Any]) -> list[Any]:
        """Return the entries of a table of shape (n_repeats + 1, n_sizes), a list for each group."""
        return [table[group.repeat, group.size_index].tolist() for group in self.groups]
