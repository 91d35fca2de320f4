"""A backward pass as data: every node, every call of a vjp, every gradient that was added up.

    with watch(model):                       # which module made which node
        loss = model.loss(ids, targets)      # or any expression
    trace = Trace.of(loss)                   # the pass itself, by the engine's own `backward`

A trace is made with mirrors: one for each node of the graph, with the same parents, that calls
the node's vjp and notes down what went in and what came out. `autograd.backward.backward` walks the
mirrors as it would walk the graph, so that order, number of calls and sums are the engine's own.
The graph stays as it was, and so does every `.grad`.

Names. `watch` sets an attribute `forward` on every module for a while. What its arguments were
computed from, and has no name yet, was made by the caller; then, what its result was computed from,
and has no name yet, was made by that module.
"""

from __future__ import annotations

import inspect
import math
import textwrap
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from autograd import Array, Tensor, enable_grad
from autograd.backward import backward, topological_order
from npgpt2.model import GPT2Model
from npgpt2.module import Module

Arrival = tuple[int, int, Array]

# -- which module made which node ------------------------------------------------------------------

_Labels = dict[int, tuple["weakref.ref[Tensor]", str]]  # by id, for as long as the Tensor lives
_paths: _Labels = {}
_names: _Labels = {}


def _label(labels: _Labels, tensor: Tensor, text: str) -> None:
    key = id(tensor)
    labels[key] = weakref.ref(tensor, lambda _: labels.pop(key, None)), text


def _label_of(labels: _Labels, tensor: Tensor) -> str | None:
    _, text = labels.get(id(tensor), (None, None))
    return text


@contextmanager
def watch(model: Module) -> Iterator[None]:
    """Inside this block, remember which module of the model made which node; and its names.

    The path of a module is that of `Module.named_parameters`: "h.0.attn", "" for the model. A node
    belongs to the innermost module whose `forward` made it; what is computed outside of all
    forwards has the path "". A module in two places has the first of their paths. A module that
    another `watch` has now is left to that one.

    Whatever happens inside, the modules are afterwards as they were. Of one thread at a time.

    Notes
    -----
    What a forward was given is told from what it makes by its arguments (and lists, tuples and
    dicts of them). What was computed before and reaches it in another way counts as made by it.

    Examples
    --------
    >>> from npgpt2 import Linear
    >>> layer = Linear(2, 2)
    >>> with watch(layer):
    ...     loss = layer(np.ones((1, 2), np.float32)).sum()
    >>> [(node.op, node.name) for node in Trace.of(loss).nodes]
    [('leaf', 'weight'), ('leaf', 'bias'), ('constant', ''), ('linear', ''), ('sum', '')]
    """
    watched: list[Module] = []
    try:
        if not isinstance(vars(model).get("forward"), _Watched):
            _name_parameters(model)
        for path, module in model.named_modules():
            before = vars(module).get("forward")
            if not isinstance(before, _Watched):
                watched.append(module)
                module.forward = _Watched(path, module.forward, before)  # type: ignore[method-assign]
        yield
    finally:
        for module in watched:
            forward = vars(module).get("forward")
            if isinstance(forward, _Watched):
                if forward.before is None:
                    del module.forward
                else:
                    module.forward = forward.before  # type: ignore[method-assign]


class _Stack(threading.local):
    def __init__(self) -> None:
        self.paths = [""]  # of the modules whose forwards are running, the innermost last


_running = _Stack()


class _Watched:
    """The forward of a module, which labels what was made before and what is made inside."""

    def __init__(self, path: str, forward: Callable[..., Any], before: Any) -> None:
        self.path, self.forward, self.before = path, forward, before

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("a model cannot be copied inside `with watch(model):`; copy it before")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        _label_below((args, kwargs), _running.paths[-1])  # what the caller made
        _running.paths.append(self.path)
        try:
            out = self.forward(*args, **kwargs)
        finally:
            _running.paths.pop()
        _label_below(out, self.path)
        return out


def _label_below(x: Any, path: str) -> None:
    """Give a path to what has none. What is below a labelled node is labelled already."""
    below = list(_tensors(x))
    while below:
        tensor = below.pop()
        if _label_of(_paths, tensor) is None:
            if tensor.parents or not tensor.requires_grad:  # a leaf was not made here
                _label(_paths, tensor, path)
            below.extend(tensor.parents or ())


def _tensors(x: Any) -> Iterator[Tensor]:
    """All Tensors in lists, tuples and dicts, however deep."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, list | tuple | dict):
        for item in x.values() if isinstance(x, dict) else x:
            yield from _tensors(item)


def _name_parameters(model: Module) -> None:
    for name, parameter in model.named_parameters():
        _label(_names, parameter, name)


# -- a backward pass, noted down -------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """One node of a graph, and what the backward pass did there.

    The arrays are those of the run, not copies: read them, do not write to them, and read the
    values of parameters before the optimizer's step changes them.

    Attributes
    ----------
    index
        Position in `Trace.nodes`.
    op
        Name of the op that made it, such as "linear"; "leaf" or "constant" if none did.
    name
        Name of a parameter, the first if it has several ("wte.weight"); else "".
    path
        Of the module that made it, or owns the parameter: "h.0.attn". See `watch`.
    parents
        Indices of the nodes it was computed from, one for each operand.
    value
        The array.
    requires_grad
        False for constants alone.
    cotangent
        dL/dvalue, of the shape and dtype of the value: the sum of what has arrived, added up by the
        engine. None for a constant.
    arrivals
        (index of the consumer, which of its operands this is, the gradient), in the order in which
        they arrived. `Rows` have been made arrays. Empty at the root and at constants.
    formula
        First paragraph of the op's docstring; "" where there is none.
    source
        Source of the vjp; "" where Python cannot find it.
    flops
        Estimate of the operations of one call of the vjp; see `estimate_flops`.
    nbytes
        Memory of the arrays the node keeps: its value, and what its vjp has saved. An array that
        several nodes keep counts at the first of them, the last to be freed; so all together are
        the memory of the graph, leaves included.
    saved
        (name, shape) of the arrays that the vjp closes over; one in a list is "name[0]".
    """

    index: int
    op: str
    name: str
    path: str
    parents: tuple[int, ...]
    value: Array
    requires_grad: bool
    cotangent: Array | None
    arrivals: tuple[Arrival, ...]
    formula: str
    source: str
    flops: int
    nbytes: int
    saved: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value, and of the cotangent."""
        return self.value.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the value, and of the cotangent."""
        return self.value.dtype

    @property
    def is_leaf(self) -> bool:
        """Whether gradients end here."""
        return self.requires_grad and not self.parents

    @property
    def title(self) -> str:
        """What to call it in a text: "wte.weight", "layer_norm (ln_f)", or the op alone."""
        return self.name or (f"{self.op} ({self.path})" if self.path else self.op)

    def __repr__(self) -> str:
        return f"<Node {self.index}: {self.title} {self.shape} {self.dtype}>"


@dataclass(frozen=True, eq=False)
class Trace:
    """A backward pass.

    Attributes
    ----------
    nodes
        Every node that requires a gradient, and the constants they were computed from; parents
        before children, the root last.
    calls
        Indices of the nodes whose vjps were called, in order.

    Examples
    --------
    >>> x = Tensor([2.0, 3.0], requires_grad=True)
    >>> trace = Trace.of((x * x + x).sum())
    >>> [trace.nodes[i].op for i in trace.calls]
    ['sum', 'add', 'mul']
    >>> trace.node(x).arrivals  # from the sum, and twice from the product
    ((2, 1, array([1., 1.])), (1, 0, array([2., 3.])), (1, 1, array([2., 3.])))
    >>> trace.node(x).cotangent
    array([5., 7.])
    """

    nodes: list[Node]
    calls: list[int]
    _tensors: list[weakref.ref[Tensor]] = field(repr=False)

    @classmethod
    def of(cls, root: Tensor, g: ArrayLike | None = None, model: Module | None = None) -> Trace:
        """Run the backward pass of `root`, and return what happened. Changes nothing.

        Parameters
        ----------
        root
            What `backward()` would be called on.
        g
            Its cotangent; may be left out where there is just one element, and is 1 then.
        model
            Names the parameters, where there was no `watch`, or in another way.

        Raises
        ------
        RuntimeError
            Nothing here requires a gradient, or the graph was freed by an earlier pass.
        TypeError, ValueError
            g does not fit, is missing, or a vjp is wrong; see `Tensor.vjp`.
        """
        cotangent = root.cotangent(g)
        own = {} if model is None else {id(p): name for name, p in model.named_parameters()}
        mirrors: dict[int, _Mirror] = {}
        calls: list[int] = []
        for tensor in topological_order(root):
            assert isinstance(tensor, Tensor) and tensor.parents is not None
            for parent in tensor.parents:
                if id(parent) not in mirrors:  # a constant: all others are in the order already
                    mirrors[id(parent)] = _Mirror(len(mirrors), parent, (), calls)
            parents = tuple(mirrors[id(parent)] for parent in tensor.parents)
            mirrors[id(tensor)] = _Mirror(len(mirrors), tensor, parents, calls)
        leaves = backward(mirrors[id(root)], cotangent)
        for leaf, gradient in leaves:
            assert isinstance(leaf, _Mirror)
            leaf.cotangent = np.asarray(gradient)
        texts: dict[int, tuple[str, str]] = {}
        counted: set[int] = set()
        nodes = [mirror.node(texts, counted, own) for mirror in mirrors.values()]
        return cls(nodes, calls, [weakref.ref(mirror.tensor) for mirror in mirrors.values()])

    def node(self, tensor: Tensor) -> Node:
        """Return the node of a Tensor; ValueError if it is not part of this graph."""
        for node, ref in zip(self.nodes, self._tensors, strict=True):
            if ref() is tensor:
                return node
        raise ValueError(f"a Tensor of shape {tensor.shape} that is no part of the traced graph")


class _Mirror:
    """Stands for a Tensor while `backward` walks: what autograd.backward.Node asks for."""

    def __init__(
        self, index: int, tensor: Tensor, parents: tuple[_Mirror, ...], calls: list[int]
    ) -> None:
        self.index, self.tensor, self.parents, self._calls = index, tensor, parents, calls
        self.requires_grad = tensor.requires_grad
        self.cotangent: Array | None = None
        self.arrivals: list[Arrival] = []

    def vjp(self, g: Any) -> tuple[Any, ...]:
        """Call the Tensor's own, and note down what goes in and what comes out."""
        self._calls.append(self.index)
        self.cotangent = np.asarray(g)
        gradients = self.tensor.vjp(self.cotangent)
        for slot, (parent, gradient) in enumerate(zip(self.parents, gradients, strict=True)):
            if parent.requires_grad:
                parent.arrivals.append((self.index, slot, np.asarray(gradient)))
        return gradients

    def free(self) -> None:
        """Keep everything: the trace is of all of it."""

    def node(
        self, texts: dict[int, tuple[str, str]], counted: set[int], names: dict[int, str]
    ) -> Node:
        """Return what has been noted down, with the texts of the op and its memory."""
        tensor, vjp = self.tensor, self.tensor.grad_fn
        op, formula, source = "leaf" if self.requires_grad else "constant", "", ""
        if vjp is not None:
            op, code = tensor.op, id(getattr(vjp, "__code__", vjp))
            if code not in texts:
                texts[code] = _formula(vjp), _source(vjp)
            formula, source = texts[code]
        name = names.get(id(tensor)) or _label_of(_names, tensor) or ""
        saved = list(_saved(vjp))
        return Node(
            index=self.index,
            op=op,
            name=name,
            path=name.rpartition(".")[0] or _label_of(_paths, tensor) or "",
            parents=tuple(parent.index for parent in self.parents),
            value=tensor.data,
            requires_grad=self.requires_grad,
            cotangent=self.cotangent,
            arrivals=tuple(self.arrivals),
            formula=formula,
            source=source,
            flops=estimate_flops(
                op if _is_of_the_library(vjp) else "",
                tensor.shape,
                [parent.tensor.shape for parent in self.parents],
            ),
            nbytes=_new_bytes([tensor.data, *(array for _, array in saved)], counted),
            saved=tuple((name, array.shape) for name, array in saved),
        )


def trace_model(
    model: GPT2Model, ids: ArrayLike | None = None, targets: ArrayLike | None = None, seed: int = 0
) -> Trace:
    """Return the trace of the loss of a model as it is used: watched, without dropout.

    Parameters
    ----------
    model
        Its mode is afterwards what it was.
    ids, targets
        (B, T) integers, as for `GPT2Model.loss`; or neither, for a `random_batch`.
    seed
        Of the random rows.

    Returns
    -------
    Trace
        With all paths and names.

    Raises
    ------
    ValueError
        Only one of ids and targets is given.
    TypeError, IndexError, ValueError
        They do not fit the model.
    """
    if (ids is None) != (targets is None):
        raise ValueError("give both ids and targets, or neither")
    if ids is None or targets is None:
        ids, targets = random_batch(model, seed)
    with model.evaluating(), enable_grad(), watch(model):
        return Trace.of(model.loss(ids, targets))


def random_batch(model: GPT2Model, seed: int = 0) -> tuple[Array, Array]:
    """Return random ids and targets, 2 rows of 16 tokens or of as many as the model takes."""
    size = (2, min(model.config.n_positions, 16) + 1)
    rows = np.random.default_rng(seed).integers(model.config.vocab_size, size=size)
    return rows[:, :-1], rows[:, 1:]


def norm(array: Array) -> float:
    """Return the square root of the sum of squares, added up in float64.

    >>> norm(np.array([3e300, 4e300])), norm(np.array([1.0, np.inf]))
    (5e+300, inf)
    """
    numbers = array.astype(np.float64, copy=False)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        size = float(np.linalg.norm(numbers))
        if not 1e-150 < size < 1e150:  # the squares may have been too small, or too large
            largest = float(np.abs(numbers).max(initial=0.0))
            if 0.0 < largest < math.inf:
                size = largest * float(np.linalg.norm(numbers / largest))
    return size


# -- what can be said of an op ---------------------------------------------------------------------


def _is_of_the_library(vjp: Any) -> bool:
    """Whether an op is what its name says: of an op of one's own only the name may be the same."""
    return vjp is None or getattr(vjp, "__module__", "") in (
        "autograd.tensor",
        "npgpt2.functional",
    )


def _formula(vjp: Any) -> str:
    """First paragraph of the docstring of the function that a vjp was defined in."""
    outer = vjp.__qualname__.partition(".<locals>")[0]
    function = getattr(vjp, "__globals__", {}).get(outer)
    code = getattr(function, "__code__", None)
    if code is None or getattr(vjp, "__code__", None) not in code.co_consts:
        return ""  # of a function in a function, or of one that has been replaced since
    return " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split("\n"))


def _source(vjp: Any) -> str:
    try:
        return textwrap.dedent(inspect.getsource(vjp)).rstrip()
    except (OSError, TypeError):
        return ""


def _saved(vjp: Any) -> Iterator[tuple[str, Array]]:
    """Yield (name, array) for the arrays that a function closes over."""
    names = getattr(getattr(vjp, "__code__", None), "co_freevars", ())
    for name, cell in zip(names, getattr(vjp, "__closure__", None) or (), strict=False):
        try:
            yield from _arrays(name, cell.cell_contents)
        except ValueError:  # a variable that was never set
            continue


def _arrays(name: str, x: Any) -> Iterator[tuple[str, Array]]:
    if isinstance(x, np.ndarray):
        yield name, x
    elif isinstance(x, list | tuple):
        for i, item in enumerate(x):
            yield from _arrays(f"{name}[{i}]", item)


def _new_bytes(arrays: Iterable[Array], counted: set[int]) -> int:
    """Add up the memory of arrays that is not counted yet: of a view, all it is a view of."""
    total = 0
    for array in arrays:
        while isinstance(array.base, np.ndarray):
            array = array.base
        if id(array) not in counted:
            counted.add(id(array))
            total += array.nbytes
    return total


def estimate_flops(op: str, shape: Sequence[int], parents: Sequence[Sequence[int]]) -> int:
    """Estimate the floating point operations of a call of an op's vjp, to compare ops by.

    - A product of (N, K) and (K, M) matrices is 2 N K M. `linear`, `matmul` and
      `linear_cross_entropy` send back two such products, one for each operand.
    - `causal_attention` makes four, for the T (T + 1) / 2 pairs of positions that see each other.
    - Reshapes, transposes and joins move numbers and compute none: 0.
    - `embedding` and `getitem` add up what arrives: 1 for each entry of the cotangent.
    - All others, and ops of one's own: 1 for each entry of the largest array among the value and
      the operands, however many steps there are. It is the memory that limits these.

    Parameters
    ----------
    op
        Its name; leaves and constants are 0.
    shape
        Shape of the value.
    parents
        Shapes of the operands.

    Returns
    -------
    int
        The estimate.

    Examples
    --------
    >>> estimate_flops("linear", (8, 3), [(8, 5), (3, 5), (3,)])  # 2 * (2 * 8 * 5 * 3)
    480
    """
    size, sizes = math.prod(shape), [math.prod(parent) for parent in parents]
    match op:
        case "leaf" | "constant" | "reshape" | "transpose" | "swapaxes" | "concatenate":
            return 0
        case "embedding" | "getitem":
            return size
        case "linear" | "matmul":  # (..., K) times a matrix: each entry is a sum of K
            return 2 * 2 * size * parents[0][-1]
        case "linear_cross_entropy":
            return 2 * 2 * sizes[0] * parents[1][0]
        case "causal_attention":
            B, T, C = shape
            return 4 * 2 * B * C * (T * (T + 1) // 2)
        case _:
            return max([size, *sizes])
