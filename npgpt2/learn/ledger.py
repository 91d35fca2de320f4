"""The ledger of a backward pass: the norms and the sum of every node, as text.

Compare it with your calculation on paper. Its lines are in the order in which the engine computes
the gradients: from the loss down. At its end is the source code of every vjp that ran.
"""

from __future__ import annotations

import math
import textwrap
from itertools import groupby

from numpy.typing import ArrayLike

from autograd import Tensor
from npgpt2.learn.trace import Node, Trace, norm, trace_model
from npgpt2.model import GPT2Model
from npgpt2.module import Module

_WIDTH = 100  # columns of a terminal
_SMALL = 30  # up to this many vjp calls, every node is shown with its formula
_LINES = 80  # a longer table is folded: one line for each module
_LEGEND = (
    "|a| is the norm of a: the root of the sum of squares.\n"
    '"= b + c": the engine added up gradients with the norms b and c. The norm of the sum is '
    "smaller\nthan b + c, unless all gradients point the same way."
)


def explain(loss: Tensor, model: Module | None = None, *, full: bool = False) -> str:
    """Return the ledger of `loss.backward()`, in lines of up to 100 columns. Changes nothing.

    Up to 30 nodes, or with `full`, it shows every node with its formula and its parameters. More
    nodes make a table with one line for each node, or, if that is too long, for each module.

    If you compute the loss inside `with watch(model):`, its nodes have the paths of modules.
    Without `watch`, `model` names the parameters. For errors see `Trace.of`.

    >>> x = Tensor([3.0, 4.0], requires_grad=True)
    >>> text = explain((x * x + x).sum())
    >>> print(text[: text.index("How each op")].rstrip())
    Value: 32.0. Computed nodes: 3. Leaves with a gradient: 1. Constants: 0. Backward calls each
    computed node's vjp once, about 6 FLOP in all. The graph keeps 56 B.
    To see the modules, compute the loss inside `with watch(model):`.
    <BLANKLINE>
    Every node, in the order of the vjp calls. |a| is the norm of a: the root of the sum of squares.
    "= b + c": the engine added up gradients with the norms b and c. The norm of the sum is smaller
    than b + c, unless all gradients point the same way.
    <BLANKLINE>
       1. sum (): |value| 3.20e+01, |cotangent| 1.00e+00
          out = sum of a over axis (an integer, a tuple, or None for all); da = g, broadcast.
       2. add (2,): |value| 2.33e+01, |cotangent| 1.41e+00
          out = a + b; da = g, db = g (summed over broadcast axes, here and below).
       3. mul (2,): |value| 1.84e+01, |cotangent| 1.41e+00
          out = a * b; da = g * b, db = g * a.
          leaf (2,): |value| 5.00e+00, |cotangent| 1.14e+01
            = add 1.41e+00 + mul 5.00e+00 + mul 5.00e+00
    """
    return format_ledger(Trace.of(loss, model=model), full=full)


def report(
    model: GPT2Model,
    ids: ArrayLike | None = None,
    targets: ArrayLike | None = None,
    full: bool = False,
) -> str:
    """Return the ledger of a model's loss, without dropout; see `trace_model` and `explain`."""
    return format_ledger(trace_model(model, ids, targets), full=full)


def format_ledger(trace: Trace, *, full: bool = False) -> str:
    """Return the ledger of a trace; see `explain`."""
    in_full = full or len(trace.calls) <= _SMALL
    parts = [_summary(trace), "\n".join((_every_node if in_full else _table)(trace)), _vjps(trace)]
    return "\n\n".join(part for part in parts if part)


def _summary(trace: Trace) -> str:
    nodes, root = trace.nodes, trace.nodes[-1]
    constants = sum(not node.requires_grad for node in nodes)
    value = f"Value: {root.value.item()}" if root.value.size == 1 else f"Shape: {root.shape}"
    text = (
        f"{value}. Computed nodes: {len(trace.calls):,}. Leaves with a gradient: "
        f"{len(nodes) - len(trace.calls) - constants:,}. Constants: {constants:,}. "
        f"Backward calls each computed node's vjp once, about "
        f"{_si(sum(node.flops for node in nodes))}FLOP in all. The graph keeps "
        f"{_si(sum(node.nbytes for node in nodes))}B."
    )
    if not any(node.path for node in nodes if not node.is_leaf):
        text += "\nTo see the modules, compute the loss inside `with watch(model):`."
    return "\n".join(line for part in text.split("\n") for line in textwrap.wrap(part, _WIDTH))


def _si(number: float) -> str:
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g} {letter}"
    return f"{number:.3g} "


# -- every node ----------------------------------------------------------------------------------


def _every_node(trace: Trace) -> list[str]:
    """Return about three lines for each call; a leaf stands below the call that completes it."""
    lines = [f"Every node, in the order of the vjp calls. {_LEGEND}", ""]
    if not trace.calls:
        lines += _node("", trace.nodes[-1], trace)
    for i, call in enumerate(trace.calls, 1):
        node = trace.nodes[call]
        lines += _node(f"{i:4}. ", node, trace)
        for leaf in _completed(node, trace):
            lines += _node(" " * 6, leaf, trace)
    return lines


def _node(start: str, node: Node, trace: Trace) -> list[str]:
    assert node.cotangent is not None
    lines = [
        f"{start}{node.title} {node.shape}: |value| {norm(node.value):.2e}, "
        f"|cotangent| {norm(node.cotangent):.2e}"
    ]
    if node.formula:
        formula = textwrap.shorten(node.formula, _WIDTH - 6, placeholder=" ...")
        lines.append(" " * 6 + formula)
    return lines + _sum(node, trace, indent=8 if node.is_leaf else 6)


def _sum(node: Node, trace: Trace, indent: int, start: str = "") -> list[str]:
    """Return the sum that made the cotangent; nothing if fewer than two gradients arrived."""
    if len(node.arrivals) < 2:
        return []
    lines, line = [], " " * indent + start + "="
    for i, _, gradient in node.arrivals:
        plus = "" if line.endswith("=") else " +"
        term = f"{plus} {trace.nodes[i].title} {norm(gradient):.2e}"
        if len(line) + len(term) > _WIDTH:
            lines.append(line)
            line = " " * (indent + 1)
        line += term
    return [*lines, line]


def _completed(node: Node, trace: Trace) -> list[Node]:
    """Return the leaves that get their last gradient from this node."""
    parents = [trace.nodes[i] for i in dict.fromkeys(node.parents)]
    return [p for p in parents if p.is_leaf and p.arrivals[-1][0] == node.index]


# -- a table -------------------------------------------------------------------------------------


def _table(trace: Trace) -> list[str]:
    """Return one line for each group of nodes, and one for each sum."""
    groups = _groups(trace)
    folded = sum(len(group) > 1 for _, group in groups)
    lines = [
        f"A table in the order of the vjp calls. {_LEGEND}",
        "|dleaves| is the norm of all gradients of leaves (parameters) that a line completes.",
    ]
    if folded:
        lines += [
            f"Modules that take one line for all their nodes: {folded}. The line has the value and "
            "cotangent of the",
            "module's result. full=True (--full) shows every node.",
        ]
    lines += [
        "",
        f"{'':32}{'nodes':>5}  {'shape':20}{'|value|':>12}{'|cotangent|':>13}{'|dleaves|':>13}",
    ]
    hidden = range(_LINES // 2, len(groups) - _LINES // 2)
    for i, (title, group) in enumerate(groups):
        if len(groups) > 2 * _LINES and i in hidden:
            if i == hidden.start:
                lines.append(
                    f"... {len(hidden):,} lines left out; full=True (--full) shows all ..."
                )
            continue
        lines += _row(title, group, trace)
    return lines


def _row(title: str, group: list[Node], trace: Trace) -> list[str]:
    returned = group[0]  # its vjp is called first
    assert returned.cotangent is not None
    leaves = [leaf for node in group for leaf in _completed(node, trace)]
    gradients = [norm(leaf.cotangent) for leaf in leaves if leaf.cotangent is not None]
    of_leaves = f"{math.hypot(*gradients):.2e}" if gradients else ""
    lines = [title] if len(title) > 31 else []
    lines += [
        f"{'' if lines else title:32}{len(group):>5}  {returned.shape!s:20}"
        f"{norm(returned.value):>12.2e}{norm(returned.cotangent):>13.2e}{of_leaves:>13}".rstrip()
    ]
    for node in group:
        lines += _sum(node, trace, indent=4)
    for leaf in leaves:
        if len(leaf.arrivals) > 1:
            lines += _sum(leaf, trace, indent=4, start=f"{leaf.title} ")
    return lines


def _groups(trace: Trace) -> list[tuple[str, list[Node]]]:
    """Return (title, nodes) for groups of nodes whose calls follow each other.

    The nodes of a group belong to one module. The modules are as deep as the number of lines
    allows. Each call of a module makes a group.
    """
    computed = [trace.nodes[call] for call in trace.calls]
    groups: list[tuple[str, list[Node]]] = []
    for depth in range(max(len(node.path.split(".")) for node in computed), 0, -1):

        def module(node: Node, depth: int = depth) -> str | int:
            path = node.path.split(".")
            return ".".join(path[:depth]) if node.path and len(path) >= depth else node.index

        runs = [(key, list(group)) for key, group in groupby(computed, module)]
        groups = [(group[0].title if len(group) == 1 else str(key), group) for key, group in runs]
        if len(groups) <= _LINES:
            break
    return groups


# -- the vjps ------------------------------------------------------------------------------------


def _vjps(trace: Trace) -> str:
    """Return formula and source of each op's vjp; each op once."""
    texts: dict[tuple[str, str, str], list[Node]] = {}
    for call in trace.calls:
        node = trace.nodes[call]
        texts.setdefault((node.op, node.formula, node.source), []).append(node)
    lines = ["How each op sends its gradient back: the code that ran." if texts else ""]
    for nodes in texts.values():
        node, times = nodes[0], f"{len(nodes)} calls" if len(nodes) > 1 else "1 call"
        lines += ["", f"{node.op}, {times}"]
        lines += textwrap.wrap(
            node.formula, _WIDTH, initial_indent="    ", subsequent_indent="    "
        )
        source = node.source or "(Python cannot find its source)"
        lines += textwrap.indent(source, "    ").split("\n")
    return "\n".join(lines)
