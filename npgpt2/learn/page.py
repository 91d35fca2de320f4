"""A backward pass as one HTML file, with a slider over the forward nodes and the vjp calls.

    report(model, ids, targets, "run.html")      # of the loss of a model
    write_page(Trace.of(loss), "run.html")       # of any expression

The file contains its numbers, styles and script, and needs no network. Each step shows the node
and its parents, the formula and the code of its vjp, heat maps of value and cotangent, the nodes
that still wait for gradients, and the memory that is freed. At the bottom, a small example shows
the wrong gradients that come out if a node does not wait for all its consumers.

`page.html` beside this file is the page without its numbers.
"""

from __future__ import annotations

import base64
import html
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from autograd import Array, Tensor
from npgpt2.disk.files import write_atomically
from npgpt2.learn.trace import Node, Trace, norm, trace_model
from npgpt2.model import GPT2Model

CELLS = 64  # at most, along each side of a heat map
NODES = 6000  # at most, in one page; each takes about 0.8 kB of text
BUDGET = 3_000_000  # characters of heat maps in one page


def report(
    model: GPT2Model, ids: ArrayLike, targets: ArrayLike, path: str | os.PathLike[str]
) -> str:
    """Write the page of a model's loss, without dropout; return a line about it.

    For parameters and errors see `trace_model` and `write_page`.
    """
    trace = trace_model(model, ids, targets)
    loss = trace.nodes[-1].value.item()
    write_page(trace, path, title=f"A backward pass of GPT-2, loss {loss:.4f}")
    return (
        f"{os.fspath(path)}: loss {loss:.4f}, {len(trace.nodes)} nodes, {len(trace.calls)} vjp "
        f"calls, {os.path.getsize(path) / 1e6:.1f} MB; open it in a browser"
    )


def write_page(
    trace: Trace,
    path: str | os.PathLike[str],
    *,
    title: str = "A backward pass, step by step",
    budget: int = BUDGET,
) -> None:
    """Write a trace as one HTML file, which needs nothing but a browser.

    Parameters
    ----------
    trace, title
        The backward pass, and the heading of the page.
    path
        The file. The page replaces an existing file only once it is complete.
    budget
        Largest number of characters for heat maps. The nodes nearest to the root get heat maps
        first. If the budget does not suffice for all nodes, the others show only their norms, and
        the page says so.

    Raises
    ------
    ValueError
        The root is a leaf, or there are more than 6,000 nodes.

    Examples
    --------
    >>> import tempfile
    >>> x = Tensor([2.0, 3.0], requires_grad=True)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     write_page(Trace.of((x * x).sum()), f"{directory}/run.html", title="A square")
    ...     os.listdir(directory)
    ['run.html']
    """
    text = render(trace, title, budget)
    write_atomically(path, lambda file: file.write(text.encode()))


def render(trace: Trace, title: str, budget: int = BUDGET) -> str:
    """Return the page as text; for parameters and errors see `write_page`."""
    if not trace.calls:
        raise ValueError(
            "there is nothing to show: the root is a leaf, so no vjp was called; "
            "trace a Tensor that an op made"
        )
    if len(trace.nodes) > NODES:
        raise ValueError(
            f"a graph of {len(trace.nodes):,} nodes is too large for a page, which takes at most "
            f"{NODES:,}; trace a part of it"
        )
    run = json.dumps(describe(trace, budget), separators=(",", ":"), allow_nan=False)
    template = resources.files("npgpt2.learn").joinpath("page.html").read_text(encoding="utf-8")
    # Neither text contains a "<". So the second replacement cannot hit the title, and no
    # "</script>" ends the numbers early.
    page = template.replace("<!--title-->", html.escape(title))
    return page.replace("<!--run-->", run.replace("<", "\\u003c"))


# -- the numbers of the page -----------------------------------------------------------------------


def describe(trace: Trace, budget: int = BUDGET) -> dict[str, Any]:
    """Return the contents of the page, ready for `json`; numbers that are not finite are text.

    Formula and source of a node are indices into "texts". "left_out" is the number of nodes for
    which the budget allowed no heat maps. "diamond" is the small example.
    """
    texts: dict[str, int] = {}
    nodes: list[dict[str, Any]] = []
    left_out = 0
    for node in reversed(trace.nodes):
        pictures = {"value": heat_map(node.value), "cotangent": heat_map(node.cotangent)}
        size = sum(len(picture["cells"]) for picture in pictures.values() if picture)
        if size <= budget:
            budget -= size
        else:  # none for the nodes farther from the root either
            budget, left_out, pictures = 0, left_out + 1, dict.fromkeys(pictures)
        nodes.append(_describe(node, texts) | pictures)
    return {
        "nodes": nodes[::-1],
        "calls": trace.calls,
        "texts": list(texts),
        "left_out": left_out,
        "diamond": diamond(),
    }


def _describe(node: Node, texts: dict[str, int]) -> dict[str, Any]:
    return {
        "op": node.op,
        "name": node.name,
        "path": node.path,
        "parents": node.parents,
        "shape": node.shape,
        "dtype": str(node.dtype),
        "requires_grad": node.requires_grad,
        "norm": _norm(node.value),
        "cotangent_norm": None if node.cotangent is None else _norm(node.cotangent),
        "arrivals": [(consumer, slot, _norm(g)) for consumer, slot, g in node.arrivals],
        "formula": texts.setdefault(node.formula, len(texts)),
        "source": texts.setdefault(node.source, len(texts)),
        "flops": node.flops,
        "nbytes": node.nbytes,
        "value_bytes": node.value.nbytes,
        "saved": node.saved,
    }


def _norm(x: Array) -> float | str:
    """Return the norm; "inf" or "nan" as text, because JSON has no such numbers."""
    size = norm(x)
    return size if math.isfinite(size) else str(size)


def heat_map(x: Array | None) -> dict[str, Any] | None:
    """Return an array as a picture of at most 64 x 64 cells; None if it has no entries.

    The last axis becomes the columns, and all other axes together become the rows. A cell is the
    mean of a block of entries. The blocks at the right and lower edges may be smaller.

    "seen" is the size of the array in rows and columns, "block" the size of a block, "rows" and
    "cols" the size of the picture, and "scale" the largest magnitude of a cell. "cells" are the
    cells as int8 in base64: q means scale * q / 127, rounded; -128 means not finite.

    >>> picture = heat_map(np.array([[1.0, -0.5], [0.0, np.inf]]))
    >>> picture["scale"], np.frombuffer(base64.b64decode(picture["cells"]), np.int8)
    (1.0, array([ 127,  -64,    0, -128], dtype=int8))
    """
    if x is None or not x.size:
        return None
    table = x.reshape(-1, x.shape[-1]) if x.ndim else x.reshape(1, 1)
    means, block = table.astype(np.float64, copy=False), []
    with np.errstate(over="ignore", invalid="ignore"):
        for axis, length in enumerate(table.shape):
            size = -(-length // CELLS)
            starts = np.arange(0, length, size)
            counts = np.minimum(size, length - starts)
            # Divide first, so that no sum overflows.
            means = np.add.reduceat(means / size, starts, axis)
            means *= size / (counts if axis else counts[:, None])
            block.append(size)
    finite = np.isfinite(means)
    scale = float(np.max(np.abs(means), where=finite, initial=0.0))
    cells = np.full(means.shape, -128, np.int8)
    cells[finite] = np.rint(means[finite] / (scale or 1.0) * 127)
    return {
        "seen": table.shape,
        "block": block,
        "rows": means.shape[0],
        "cols": means.shape[1],
        "scale": scale,
        "cells": base64.b64encode(cells.tobytes()).decode(),
    }


# -- why a node must wait --------------------------------------------------------------------------


class Event(NamedTuple):
    """A gradient arrives at a node."""

    consumer: Tensor
    node: Tensor
    gradient: float
    holds: float  # the sum that the node now holds
    runs: bool  # whether the vjp of the node runs now
    does: str  # how the node reacts, in words


# (sum so far, gradient that arrives) -> (new sum, gradient that the node sends on)
Rule = Callable[[float, float], tuple[float, float]]

NAIVE: tuple[tuple[str, str, Rule], ...] = (
    (
        "naive, overwriting",
        "As soon as a gradient arrives, a node forgets the earlier ones, and sends the new one on. "
        "Only the last path remains.",
        lambda held, g: (g, g),
    ),
    (
        "naive, with partial sums",
        "As soon as a gradient arrives, a node adds it, and sends on the sum so far. So it sends "
        "the first gradient twice.",
        lambda held, g: (held + g, held + g),
    ),
    (
        "naive, every path alone",
        "As soon as a gradient arrives, a node adds it, and sends on this gradient alone. The "
        "result is right, but every vjp from x down runs once for every path: 2 times here, and "
        "2**n times after n diamonds in a row.",
        lambda held, g: (held + g, g),
    ),
)


def diamond() -> dict[str, Any]:
    """Run the backward pass of a small expression in the right order, and in three naive orders.

    The right order comes first. "gradient" is dloss/dw, "rule" explains an order, and "calls" is
    the number of its vjp calls.

    >>> [(order["gradient"], order["calls"]) for order in diamond()["orders"]]
    [(75.0, 4), (3.0, 5), (147.0, 5), (75.0, 5)]
    """
    w = Tensor(1.0, requires_grad=True)
    x = w * 3.0
    a = x * 2.0
    b = a**2.0
    loss = b + x
    names = {id(w): "w", id(x): "x", id(a): "a", id(b): "b", id(loss): "loss"}

    def order(name: str, rule: str, events: Iterable[Event]) -> dict[str, Any]:
        shown: list[dict[str, Any]] = []
        holds, calls = {"loss": 1.0}, ["loss"]
        for event in events:
            consumer, node = names[id(event.consumer)], names[id(event.node)]
            words = (
                f"{consumer} sends {event.gradient:g} to {node}, "
                f"which now holds {event.holds:g}{event.does}."
            )
            shown.append({"from": consumer, "to": node, "holds": event.holds, "words": words})
            holds[node] = event.holds
            calls += [node] if event.runs else []
        return {
            "name": name,
            "rule": rule,
            "events": shown,
            "gradient": holds["w"],
            "calls": len(calls),
            "calls_of_x": calls.count("x"),
        }

    orders = [
        order(
            "topological order",
            "A node waits until all its consumers have sent their gradients. Every vjp runs once.",
            _in_order(loss, [w, x, a, b, loss]),
        ),
        *(order(name, text, _recursion(loss, 1.0, rule, {})) for name, text, rule in NAIVE),
    ]
    loss.backward()
    assert w.grad is not None
    return {
        "nodes": {"w": "1", "x": "3w", "a": "2x", "b": "a²", "loss": "b + x"},
        "gradient": float(w.grad),
        "orders": orders,
    }


def _in_order(root: Tensor, tensors: list[Tensor]) -> Iterator[Event]:
    """Yield the events in the order of the engine."""
    trace = Trace.of(root)
    by_index = {trace.node(tensor).index: tensor for tensor in tensors}
    for call in trace.calls:
        for parent in dict.fromkeys(trace.nodes[call].parents):
            holds, arrivals = 0.0, trace.nodes[parent].arrivals
            for k, (consumer, _, gradient) in enumerate(arrivals, start=1):
                holds += float(gradient)
                if consumer == call:
                    tensor, complete = by_index[parent], k == len(arrivals)
                    runs = complete and bool(tensor.parents)
                    does = " (the whole sum) and may run its vjp" if runs else ""
                    does = does if complete else f" ({k} of {len(arrivals)} gradients) and waits"
                    yield Event(by_index[call], tensor, float(gradient), holds, runs, does)


def _recursion(node: Tensor, g: float, rule: Rule, held: dict[int, float]) -> Iterator[Event]:
    """Yield the events of a backward pass that does not wait."""
    for parent, array in zip(node.parents or (), node.vjp(g), strict=True):
        if parent.requires_grad:
            gradient = float(array)
            holds, sends = rule(held.get(id(parent), 0.0), gradient)
            held[id(parent)] = holds
            runs = bool(parent.parents)
            does = f" and sends {sends:g} on at once" if runs else ""
            yield Event(node, parent, gradient, holds, runs, does)
            if runs:
                yield from _recursion(parent, sends, rule, held)
