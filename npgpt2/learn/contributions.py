"""Where a gradient comes from: split by use, and along the residual stream by path.

A gradient is a sum, over all that was computed from the tensor. The tied table `wte.weight` is used
twice, to look up tokens and to score them; a state of the residual stream is used by the sum that
carries it on, and by the branch that reads it. Here the summands are kept apart, and it is always
checked that they add up to the gradient.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from autograd import Array, Tensor
from npgpt2.learn.trace import Node, Trace, norm, trace_model
from npgpt2.model import GPT2Model
from npgpt2.module import Module

_BAR = 20  # characters, of the longest one


@dataclass(frozen=True, eq=False)
class Part:
    """One summand of a gradient.

    Attributes
    ----------
    name
        Where it comes from: "embedding (wte)".
    gradient
        An array of the tensor's shape.
    norm
        Root of the sum of its squares.
    cosine
        Of the angle between it and the whole gradient: 1 where they point the same way, negative
        where it is against. NaN if one of them is 0.
    share
        What it adds to the whole gradient g in the direction of that: <part, g> / <g, g>. Shares
        add up to 1; one may be negative, or above 1. NaN if g is 0.
    """

    name: str
    gradient: Array
    norm: float
    cosine: float
    share: float


class Contributions:
    """A gradient, and the parts that add up to it.

    Parameters
    ----------
    name
        Of the tensor.
    gradient
        dL/dtensor.
    parts
        (name, array) of each summand.

    Attributes
    ----------
    name, gradient
        As given.
    norm
        Root of the sum of squares of the gradient.
    parts
        The summands, a tuple of `Part`.

    Raises
    ------
    ArithmeticError
        The parts do not add up to the gradient: by more than rounding.

    Examples
    --------
    >>> a = Contributions("a", np.array([3.0, 4.0]), [("x", [3.0, 0.0]), ("y", [0.0, 4.0])])
    >>> print(a)
    a, (2,): the gradient is the sum of 2 parts
                                              norm   cosine     share
    x                                     3.00e+00   +0.600   +36.0 %  ############
    y                                     4.00e+00   +0.800   +64.0 %  ################
    together                              5.00e+00                     ####################
    """

    def __init__(self, name: str, gradient: Array, parts: Iterable[tuple[str, ArrayLike]]) -> None:
        self.name, self.gradient, self.norm = name, gradient, norm(gradient)
        arrays = [(part, np.asarray(array)) for part, array in parts]
        _require_sum(name, gradient, [array for _, array in arrays])
        self.parts = tuple(self._part(part, array) for part, array in arrays)

    def _part(self, name: str, array: Array) -> Part:
        length, along = norm(array), _inner(array, self.gradient)
        cosine = along / (length * self.norm or np.nan)
        return Part(name, array, length, cosine, share=along / (self.norm**2 or np.nan))

    def __str__(self) -> str:
        longest = max([self.norm, *(part.norm for part in self.parts)])

        def bar(length: float) -> str:
            known = np.isfinite(longest) and longest > 0.0
            return "#" * round(_BAR * length / longest) if known else ""

        count = f"{len(self.parts)} parts" if len(self.parts) != 1 else "1 part"
        lines = [
            f"{self.name}, {self.gradient.shape}: the gradient is the sum of {count}",
            f"{'':36}{'norm':>10}{'cosine':>9}{'share':>10}",
        ]
        for part in self.parts:
            lines.append(
                f"{part.name:36}{part.norm:>10.2e}{part.cosine:>+9.3f}{100 * part.share:>+8.1f} %"
                f"  {bar(part.norm)}".rstrip()
            )
        lines.append(f"{'together':36}{self.norm:>10.2e}{'':19}  {bar(self.norm)}".rstrip())
        return "\n".join(lines)


def _inner(a: Array, b: Array) -> float:
    """Return the sum of a * b, added up in float64."""
    return float(np.vdot(a.astype(np.float64, copy=False), b.astype(np.float64, copy=False)))


def _require_sum(name: str, gradient: Array, parts: list[Array]) -> None:
    """Raise ArithmeticError unless the parts add up to the gradient, but for rounding.

    Adding n numbers up in another order changes the result by n roundings of the sum of their
    magnitudes, at most: Higham, Accuracy and Stability of Numerical Algorithms (2002), section 4.2.
    """
    with np.errstate(invalid="ignore"):  # inf - inf: what is not finite cannot be checked
        off = sum(parts, start=np.zeros_like(gradient)) - gradient
        bound = sum(map(np.abs, parts), start=np.abs(gradient))
        bound *= 2 * (len(parts) + 1) * np.finfo(gradient.dtype).eps
        wrong = np.abs(off) > bound
    if wrong.any():
        raise ArithmeticError(
            f"the parts of the gradient of {name} do not add up to it: "
            f"{np.count_nonzero(wrong)} of {gradient.size} entries are off, by up to "
            f"{np.abs(off[wrong]).max():.3g}"
        )


# -- by use --------------------------------------------------------------------------------------


def contributions(loss: Tensor, tensor: Tensor, model: Module | None = None) -> Contributions:
    """Split the gradient of a tensor by what was computed from it. Changes nothing.

    Parameters
    ----------
    loss
        A scalar Tensor. Computed inside `with watch(model):`, the parts have the paths of modules.
    tensor
        A parameter or another leaf, or any Tensor that the loss was computed from.
    model
        Names the parameters where there was no `watch`.

    Returns
    -------
    Contributions
        A part for each node that uses the tensor, in the order in which they send their gradients
        back; one that uses it twice (x * x) sends their sum. The loss itself has one part, a
        gradient of 1.

    Raises
    ------
    ValueError
        The tensor is not part of the loss, or requires no gradient.
    RuntimeError
        See `Trace.of`.

    Examples
    --------
    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> [(part.name, part.gradient) for part in contributions((x * x + x).sum(), x).parts]
    [('add', array([1., 1.])), ('mul', array([2., 4.]))]
    """
    trace = Trace.of(loss, model=model)
    return by_use(trace, trace.node(tensor))


def by_use(trace: Trace, node: Node) -> Contributions:
    """Split the gradient of a node of a trace; see `contributions`."""
    if node.cotangent is None:
        raise ValueError(f"{node.title} of shape {node.shape} requires no gradient")
    sent: dict[int, Array] = {}
    for consumer, _, gradient in node.arrivals:
        sent[consumer] = sent[consumer] + gradient if consumer in sent else gradient
    parts = [(trace.nodes[consumer].title, gradient) for consumer, gradient in sent.items()]
    return Contributions(node.title, node.cotangent, parts or [("given", node.cotangent)])


# -- along the residual stream -------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Stream:
    """The gradient of the residual stream, taken apart.

    Attributes
    ----------
    steps
        One `Contributions` for each sum x + f(x), from the loss down: dx = "identity", the
        gradient of the sum itself, + what the branch f sends back. What else uses x is a part of
        its own. Names are those of the branches: "before h.0.attn".
    total
        dx where the stream begins, split by path: what arrived where the stream ends, which all
        identities carry down unchanged, + what each branch has added.
    """

    steps: tuple[Contributions, ...]
    total: Contributions

    def __str__(self) -> str:
        last = self.steps[0].parts[0]
        lines = [
            "The residual stream, from the loss down: dx = identity + branch",
            f"{'':36}{'identity':>10}{'branch':>10}{'cosine':>9}{'dx':>11}",
            f"{'at the end':36}{'':29}{last.norm:>11.2e}",
        ]
        for step in self.steps:
            identity, *others = step.parts
            rest = sum((part.gradient for part in others), np.zeros_like(step.gradient))
            cosine = _inner(identity.gradient, rest) / (identity.norm * norm(rest) or np.nan)
            lines.append(
                f"{step.name:36}{identity.norm:>10.2e}{norm(rest):>10.2e}{cosine:>+9.3f}"
                f"{step.norm:>11.2e}"
            )
        return "\n".join([*lines, "", str(self.total)])


def residual_stream(loss: Tensor, model: Module | None = None) -> Stream:
    """Split the gradient of the residual stream, layer by layer and by path. Changes nothing.

    The stream is found in the graph, whatever the model: a residual sum is a node x + f(x), one of
    whose operands was computed from the other; and each one's x is the sum before it. The longest
    such chain is taken.

    Parameters
    ----------
    loss
        A scalar Tensor. Computed inside `with watch(model):`, branches have the names of modules.
    model
        Names the parameters where there was no `watch`.

    Returns
    -------
    Stream
        The parts.

    Raises
    ------
    ValueError
        There is no residual sum.
    RuntimeError
        See `Trace.of`.

    Examples
    --------
    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> y = x + x * 2.0
    >>> stream = residual_stream((y + y.tanh()).sum())
    >>> [(step.name, [part.name for part in step.parts]) for step in stream.steps]
    [('before tanh', ['identity', 'tanh']), ('before mul', ['identity', 'mul'])]
    """
    return by_path(Trace.of(loss, model=model))


def by_path(trace: Trace) -> Stream:
    """Split the gradient of the residual stream of a trace; see `residual_stream`."""
    sums = _longest_chain(_residual_sums(trace))
    if not sums:
        raise ValueError("no residual sum: nothing of the form x + f(x) is in this graph")
    last = trace.nodes[sums[0].index]
    assert last.cotangent is not None
    uses = by_use(trace, last).parts
    paths = [(part.name, part.gradient) for part in uses]
    steps = []
    for one in sums:
        x = trace.nodes[one.x]
        assert x.cotangent is not None
        identity, others = np.zeros_like(x.cotangent), dict[str, Array]()
        for consumer, _, gradient in x.arrivals:
            if consumer == one.index:
                identity = gradient
            else:
                inside = one.branch >> consumer & 1
                name = one.name if inside else trace.nodes[consumer].title
                others[name] = others[name] + gradient if name in others else gradient
        split = [("identity", identity), *others.items()]
        steps.append(Contributions(f"before {one.name}", x.cotangent, split))
        paths += others.items()
    begin = trace.nodes[sums[-1].x].cotangent
    assert begin is not None
    return Stream(tuple(steps), Contributions("stream at its beginning", begin, paths))


@dataclass(frozen=True)
class _Sum:
    """A node x + f(x)."""

    index: int
    x: int  # the node carried on
    branch: int  # the other operand f(x) and all it was computed from, as a set of bits
    name: str


def _residual_sums(trace: Trace) -> dict[int, _Sum]:
    below: list[int] = []  # for each node, bit i is set if it was computed from node i
    sums = {}
    for node in trace.nodes:
        mask = 0
        for parent in node.parents:
            mask |= below[parent] | 1 << parent
        below.append(mask)
        for slot, i in enumerate(node.parents if node.op == "add" else ()):
            x, f = trace.nodes[i], node.parents[1 - slot]
            if below[f] >> i & 1 and x.shape == node.shape and x.requires_grad:
                name = _name(node, trace.nodes[f])
                sums[node.index] = _Sum(node.index, i, below[f] | 1 << f, name)
    return sums


def _name(node: Node, branch: Node) -> str:
    """Name a branch by the part of the sum's module that made its result: "h.0.attn"."""
    inside = f"{node.path}." if node.path else ""
    if branch.path != node.path and branch.path.startswith(inside):
        return inside + branch.path.removeprefix(inside).partition(".")[0]
    return branch.title


def _longest_chain(sums: dict[int, _Sum]) -> list[_Sum]:
    """Return sums each of which carries on the next, from the loss down."""
    chains: dict[int, list[_Sum]] = {}
    for index in sorted(sums):  # parents first
        chains[index] = [sums[index], *chains.get(sums[index].x, [])]
    return max(chains.values(), key=len, default=[])


# -- for the command line ------------------------------------------------------------------------


def contributions_command(
    model: GPT2Model,
    name: str,
    ids: ArrayLike | None = None,
    targets: ArrayLike | None = None,
) -> str:
    """Return where a gradient of a model comes from, as text; without dropout.

    Parameters
    ----------
    model, ids, targets
        See `trace_model`.
    name
        Of a parameter, "h.0.ln_1.weight", where ".weight" may be left out; or "stream", for the
        residual stream.

    Returns
    -------
    str
        The text.

    Raises
    ------
    ValueError
        There is no parameter of this name; the message lists those that are close.

    Examples
    --------
    >>> from npgpt2 import GPT2Config
    >>> model = GPT2Model(GPT2Config(vocab_size=9, n_positions=4, n_embd=4, n_layer=1, n_head=1))
    >>> contributions_command(model, "wte").splitlines()[0]
    'wte.weight, (9, 4): the gradient is the sum of 2 parts'
    """
    parameters = dict(model.named_parameters(aliases=True))
    if name == "stream":
        return str(by_path(trace_model(model, ids, targets)))
    parameter = parameters.get(name, parameters.get(f"{name}.weight"))
    if parameter is None:
        known = ["stream", *parameters, *(n.removesuffix(".weight") for n in parameters)]
        close = dict.fromkeys(difflib.get_close_matches(name, known, n=5, cutoff=0.4))
        raise ValueError(
            f"there is no parameter {name!r}; "
            + (f"close ones: {', '.join(close)}" if close else "they are: " + ", ".join(parameters))
        )
    trace = trace_model(model, ids, targets)
    return str(by_use(trace, trace.node(parameter)))
