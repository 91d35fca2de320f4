"""Packs: groups of small parameters that an optimizer changes together, as one flat array.

A NumPy call takes about a microsecond, even for a tiny array. A GPT-2 has 12 parameters in every
block, many of them small. An optimizer that changes them one by one spends its time on calls. So
parameters of one kind are joined in one array, if this array fits in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from autograd import Array, Tensor
from npgpt2.machine.work import BLOCK


@dataclass(eq=False)
class Pack:
    """Parameters of one dtype, with their moments. Either all are matrices, or none of them is.

    Attributes
    ----------
    members
        (parameter, slice) pairs. The slice is the parameter's part of m and v.
    m, v
        First and second moments of all members, flat.
    """

    members: list[tuple[Tensor, slice]]
    m: Array
    v: Array

    def pieces(self) -> Iterator[tuple[list[Tensor], Array, Array]]:
        """Yield (parameters, m, v) to change together, without members that have no gradient.

        If all members have a gradient, they are one piece. Otherwise each member is a piece.
        """
        present = [(p, at) for p, at in self.members if p.grad is not None]
        if len(present) == len(self.members):
            yield [p for p, _ in present], self.m, self.v
        else:
            yield from (([p], self.m[at], self.v[at]) for p, at in present)


def make_packs(parameters: Iterable[Tensor]) -> list[Pack]:
    """Pack parameters while they fit in a block; a larger one is alone. Largest pack first."""
    kinds: dict[tuple[object, ...], list[list[Tensor]]] = {}
    for p in parameters:
        packs = kinds.setdefault((p.ndim >= 2, p.dtype), [[]])
        if sum(q.size for q in packs[-1]) + p.size > BLOCK:
            packs.append([])
        packs[-1].append(p)
    made = []
    for pack in (pack for packs in kinds.values() for pack in packs if pack):
        ends = np.cumsum([p.size for p in pack]).tolist()
        members = [(p, slice(end - p.size, end)) for p, end in zip(pack, ends, strict=True)]
        m, v = np.zeros((2, ends[-1]), pack[0].dtype)
        made.append(Pack(members, m, v))
    return sorted(made, key=lambda pack: -pack.m.size)


@contextmanager
def flattened(parameters: list[Tensor]) -> Iterator[tuple[Array, Array]]:
    """Yield the data and the gradients of parameters, each as one flat array.

    At the end of the `with` block, the data is written back to the parameters. For a single
    contiguous parameter, the arrays are views, and nothing is copied.
    """
    data = _joined(p.data for p in parameters)
    yield data, _joined(p.grad for p in parameters)
    if not np.may_share_memory(data, parameters[0].data):
        start = 0
        for p in parameters:
            p.data[...] = data[start : start + p.size].reshape(p.shape)
            start += p.size


def _joined(arrays: Iterable[Array | None]) -> Array:
    """Return all arrays as one flat array; for a single contiguous one, a view."""
    flat = [a.reshape(-1) for a in arrays if a is not None]
    return flat[0] if len(flat) == 1 else np.concatenate(flat)
