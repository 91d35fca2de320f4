"""Split a gradient into the paths it came from: by use, and along the residual stream.

A gradient is a sum: each use of a tensor adds one summand. GPT-2 uses the tied table `wte.weight`
twice, to look tokens up and to score them. It also uses each state x of the residual stream twice:
in the sum x + f(x), and as the input of the branch f. This module keeps the summands apart, and
always checks that they add up to the gradient.
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

_BAR = 20  # characters of the longest bar


@dataclass(frozen=True, eq=False)
class Part:
    """One summand of a gradient.

    Attributes
    ----------
    name
        The op that sent it, such as "embedding (wte)".
    gradient
        An array with the tensor's shape.
    norm
        The square root of the sum of squares of this part.
    cosine
        The cosine of the angle between this part and the whole gradient; NaN if one of them is 0.
    share
        <part, g> / <g, g> for the whole gradient g; NaN if g is 0. The shares add up to 1. A share
        may be negative, or above 1.
    """

    name: str
    gradient: Array
    norm: float
    cosine: float
    share: float


class Contributions:
    """The gradient of the tensor called `name`, and the parts that add up to it.

    Parameters
    ----------
    parts
        (name, array) for each summand. The attribute `parts` is a tuple of `Part`.

    Raises
    ------
    ArithmeticError
        The sum of the parts differs from the gradient by more than rounding.

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
    """Return the sum of a * b, computed in float64."""
    return float(np.vdot(a.astype(np.float64, copy=False), b.astype(np.float64, copy=False)))


def _require_sum(name: str, gradient: Array, parts: list[Array]) -> None:
    """Raise ArithmeticError unless the parts add up to the gradient, up to rounding.

    Another order changes a sum of n numbers by at most n roundings of the sum of their magnitudes:
    Higham, Accuracy and Stability of Numerical Algorithms (2002), section 4.2.
    """
    with np.errstate(invalid="ignore"):  # inf - inf: only finite numbers can be checked
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
    """Split the gradient of a tensor by the nodes that use it. Changes nothing.

    Parameters
    ----------
    loss
        A scalar Tensor. If you compute it inside `with watch(model):`, the names of the parts
        contain the paths of modules.
    tensor
        A parameter or another leaf, or any Tensor from which the loss was computed.
    model
        Names the parameters if there was no `watch`.

    Returns
    -------
    Contributions
        A part for each node that uses the tensor, in the order in which the gradients arrive. A
        node that uses the tensor twice (x * x) has one part, the sum of both. The loss itself has
        one part, the given gradient of 1.

    Raises
    ------
    ValueError
        The loss was not computed from the tensor, or the tensor requires no gradient.
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
        raise ValueError(
            f"{node.title} of shape {node.shape} requires no gradient; "
            "give a Tensor with requires_grad=True"
        )
    sent: dict[int, Array] = {}
    for consumer, _, gradient in node.arrivals:
        sent[consumer] = sent[consumer] + gradient if consumer in sent else gradient
    parts = [(trace.nodes[consumer].title, gradient) for consumer, gradient in sent.items()]
    return Contributions(node.title, node.cotangent, parts or [("given", node.cotangent)])


# -- along the residual stream -------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Stream:
    """The gradient of the residual stream, split into its parts.

    Attributes
    ----------
    steps
        One `Contributions` for each residual sum x + f(x), from the loss down. It has a part for
        each use of x: "identity" is the gradient of the sum, which reaches x unchanged, and the
        next part is the gradient that the branch f sends. Its name is "before h.0.attn", for
        example.
    total
        dx at the beginning of the stream, split by path. One part is the gradient from the end of
        the stream, which reaches the beginning unchanged. Each branch adds another part.
    """

    steps: tuple[Contributions, ...]
    total: Contributions

    def __str__(self) -> str:
        last = self.steps[0].parts[0]
        lines = [
            "The residual stream, from the loss down: dx = identity + branch. The table has the",
            "norms of all three, and the cosine of the angle between identity and branch.",
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

    This works for every model, because it finds the stream in the graph. A residual sum is a node
    x + f(x): one operand was computed from the other. Residual sums form a chain if the x of each
    is the sum before it. The stream is the longest chain. A graph without a residual sum is an
    error (ValueError). For the parameters see `contributions`.

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
        raise ValueError(
            "no residual sum: this graph contains no x + f(x), so it has no residual stream; "
            "split the gradient of one tensor instead"
        )
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
    x: int  # the node that the sum carries along
    branch: int  # the other operand f(x) and all nodes from which it was computed, one bit each
    name: str


def _residual_sums(trace: Trace) -> dict[int, _Sum]:
    below: list[int] = []  # for each node: bit i is set if it was computed from node i
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
    """Name a branch after the module that made its result, such as "h.0.attn"."""
    inside = f"{node.path}." if node.path else ""
    if branch.path != node.path and branch.path.startswith(inside):
        return inside + branch.path.removeprefix(inside).partition(".")[0]
    return branch.title


def _longest_chain(sums: dict[int, _Sum]) -> list[_Sum]:
    """Return the longest list of sums, from the loss down, in which the x of each is the next."""
    chains: dict[int, list[_Sum]] = {}
    for index in sorted(sums):  # parents first
        chains[index] = [sums[index], *chains.get(sums[index].x, [])]
    return max(chains.values(), key=len, default=[])


# -- the command ---------------------------------------------------------------------------------


def report(
    model: GPT2Model,
    name: str,
    ids: ArrayLike | None = None,
    targets: ArrayLike | None = None,
) -> str:
    """Return a text that splits one gradient of a model, without dropout, into its parts.

    Parameters
    ----------
    model, ids, targets
        See `trace_model`.
    name
        A parameter, such as "h.0.ln_1.weight" or shorter "h.0.ln_1"; or "stream", the residual
        stream.

    Examples
    --------
    >>> from npgpt2 import GPT2Config
    >>> model = GPT2Model(GPT2Config(vocab_size=9, n_positions=4, n_embd=4, n_layer=1, n_head=1))
    >>> report(model, "wte").splitlines()[0]
    'wte.weight, (9, 4): the gradient is the sum of 2 parts'
    """
    legend = (
        "\n\nA part p of the gradient g has the norm |p|, the cosine <p, g> / (|p| |g|), and the "
        "share\n<p, g> / <g, g>. The shares add up to 100 %."
    )
    parameters = dict(model.named_parameters(aliases=True))
    if name == "stream":
        return str(by_path(trace_model(model, ids, targets))) + legend
    parameter = parameters.get(name, parameters.get(f"{name}.weight"))
    if parameter is None:
        known = ["stream", *parameters, *(n.removesuffix(".weight") for n in parameters)]
        close = dict.fromkeys(difflib.get_close_matches(name, known, n=5, cutoff=0.4))
        raise ValueError(
            f"there is no parameter {name!r}; "
            + (f"did you mean {', '.join(close)}?" if close else f"choose {', '.join(parameters)}")
        )
    trace = trace_model(model, ids, targets)
    return str(by_use(trace, trace.node(parameter))) + legend
