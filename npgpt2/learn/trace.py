"""A backward pass as data: every node, every call of a vjp, every gradient that was added up.

    with watch(model):                       # remember which module makes which node
        loss = model.loss(ids, targets)      # or any expression
    trace = Trace.of(loss)                   # run the backward pass, and keep all of it

To make a trace, each node of the graph gets a mirror, which has the same parents. A mirror calls
the vjp of its node, and records the cotangent that it received and the gradients that it sent.
`autograd.backward.backward` walks over the mirrors exactly as it walks over a graph. So the order
of the calls, their number and all sums are the engine's. The graph and every `.grad` stay
unchanged.

To give each node a path, `watch` labels nodes whenever a module is called and whenever it returns.
At a call, the unlabelled nodes from which the arguments were computed get the caller's path. At a
return, the unlabelled nodes from which the result was computed get the module's path.
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
from functools import partial
from types import CodeType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from autograd import Array, Tensor, enable_grad
from autograd.backward import backward, topological_order
from npgpt2 import validate
from npgpt2.model import GPT2Model
from npgpt2.module import Module
from npgpt2.optim import joint_norm

Arrival = tuple[int, int, Array]

# -- which module made which node ------------------------------------------------------------------

_Labels = dict[int, tuple["weakref.ref[Tensor]", str]]  # by id of a Tensor, while it lives
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
    """Inside this block, remember which module makes which node, and the names of the parameters.

    The paths come from `Module.named_modules`: "h.0.attn", and "" for the model. A node belongs to
    the innermost module whose `forward` made it. A node that no forward made has the path "". If
    another `watch` already watches a module, the nodes get the other one's labels. Not thread-safe:
    only one thread may use the model inside the block.

    Notes
    -----
    A forward receives Tensors as arguments, or in lists, tuples and dicts that are arguments. A
    Tensor that was computed earlier and reaches the forward in another way counts as made by it.

    Examples
    --------
    >>> from npgpt2 import Linear
    >>> layer = Linear(2, 2)
    >>> with watch(layer):
    ...     loss = layer(np.ones((1, 2), np.float32)).sum()
    >>> [(node.op, node.name) for node in Trace.of(loss).nodes]
    [('leaf', 'weight'), ('leaf', 'bias'), ('constant', ''), ('linear', ''), ('sum', '')]
    """
    validate.instance("model", model, Module, "pass the model that computes the loss")
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
        self.paths = [""]  # the modules whose forwards are running, the innermost last


_running = _Stack()


class _Watched:
    """The forward of a module; it also labels the nodes made before it and inside it."""

    def __init__(self, path: str, forward: Callable[..., Any], before: Any) -> None:
        self.path, self.forward, self.before = path, forward, before

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("a model cannot be copied inside `with watch(model):`; copy it before")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        _label_below((args, kwargs), _running.paths[-1])  # the caller made these
        _running.paths.append(self.path)
        try:
            out = self.forward(*args, **kwargs)
        finally:
            _running.paths.pop()
        _label_below(out, self.path)
        return out


def _label_below(x: Any, path: str) -> None:
    """Label every node without a label, from x down. Below a labelled node, all are labelled."""
    below = list(_tensors(x))
    while below:
        tensor = below.pop()
        if _label_of(_paths, tensor) is None:
            if tensor.parents or not tensor.requires_grad:  # no module makes a leaf
                _label(_paths, tensor, path)
            below.extend(tensor.parents or ())


def _tensors(x: Any) -> Iterator[Tensor]:
    """Yield all Tensors in lists, tuples and dicts, at any depth."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, list | tuple | dict):
        for item in x.values() if isinstance(x, dict) else x:
            yield from _tensors(item)


def _name_parameters(model: Module) -> None:
    for name, parameter in model.named_parameters():
        _label(_names, parameter, name)


# -- the record of a backward pass -----------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """One node of a graph, and everything that the backward pass did there.

    The arrays are the arrays of the run, not copies. Do not write to them. Read the values of
    parameters before the optimizer's next step changes them.

    Attributes
    ----------
    index
        Position in `Trace.nodes`.
    op
        Name of the op that made the node, such as "linear". No op made a "leaf" (an input that
        gets a gradient, such as a parameter) or a "constant" (an input without a gradient).
    name
        First name of the parameter, such as "wte.weight"; "" for other nodes.
    path
        Path of the module that made the node or owns the parameter: "h.0.attn". See `watch`.
    parents
        Indices of the nodes from which this one was computed, one for each operand.
    value
        The forward value.
    requires_grad
        False for a constant, True for every other node.
    cotangent
        dL/dvalue, with the shape and dtype of the value: the sum of all arrivals. None for a
        constant.
    arrivals
        (consumer, slot, gradient) for each gradient that arrived here, in order of arrival. The
        consumer is the index of the node that sent it, and this node is its operand number `slot`.
        Empty at the root and at constants.
    formula
        First paragraph of the op's docstring; "" if there is none.
    source
        Source code of the vjp; "" if Python cannot find it.
    flops
        Estimated operations of one call of the vjp; see `estimate_flops`.
    nbytes
        Bytes of the arrays that the node keeps: its value and the arrays that its vjp saved. If
        several nodes keep one array, only the first of them, which is freed last, counts it. So
        the sum over all nodes is the memory of the graph, leaves included.
    saved
        (name, shape) of each array that the vjp closes over. An array in a list is "name[0]". If
        the vjp is a functools.partial, a method or another object, its arguments and attributes
        count too.
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
        """Whether this is a leaf: no op made it, and it gets a gradient."""
        return self.requires_grad and not self.parents

    @property
    def title(self) -> str:
        """Title for texts: "wte.weight", "layer_norm (ln_f)", or the op alone."""
        return self.name or (f"{self.op} ({self.path})" if self.path else self.op)

    def __repr__(self) -> str:
        return f"<Node {self.index}: {self.title} {self.shape} {self.dtype}>"


@dataclass(frozen=True, eq=False)
class Trace:
    """A backward pass.

    Attributes
    ----------
    nodes
        All nodes that require a gradient, and the constants from which they were computed: parents
        before children, the root last.
    calls
        Indices of the nodes whose vjps were called, in the order of the calls.

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
        """Run the backward pass of `root`, and return a record of it. Changes nothing.

        Parameters
        ----------
        root
            The Tensor on which you would call `backward()`, usually the loss.
        g
            The cotangent of `root`. The default is 1, and needs a root of one element.
        model
            Names the parameters. These names override the names from `watch`.

        Raises
        ------
        RuntimeError
            The root requires no gradient, or an earlier backward pass freed the graph.
        TypeError, ValueError
            g is missing or does not fit, or a vjp returns something wrong; see `Tensor.vjp`.
        """
        way_out = "pass the Tensor on which you would call backward()"
        cotangent = validate.instance("root", root, Tensor, way_out).cotangent(g)
        own = {} if model is None else {id(p): name for name, p in model.named_parameters()}
        mirrors: dict[int, _Mirror] = {}
        calls: list[int] = []
        for tensor in topological_order(root):
            assert isinstance(tensor, Tensor) and tensor.parents is not None
            for parent in tensor.parents:
                if id(parent) not in mirrors:  # a constant: all other parents came earlier
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
        """Return the node of a Tensor; raise ValueError if the graph does not contain it."""
        for node, ref in zip(self.nodes, self._tensors, strict=True):
            if ref() is tensor:
                return node
        raise ValueError(
            f"the Tensor of shape {tensor.shape} is not part of the traced graph; give a Tensor "
            "from which the root was computed"
        )


class _Mirror:
    """Stands for a Tensor while `backward` walks; an `autograd.backward.Node`."""

    def __init__(
        self, index: int, tensor: Tensor, parents: tuple[_Mirror, ...], calls: list[int]
    ) -> None:
        self.index, self.tensor, self.parents, self._calls = index, tensor, parents, calls
        self.requires_grad = tensor.requires_grad
        self.cotangent: Array | None = None
        self.arrivals: list[Arrival] = []

    def vjp(self, g: Any) -> tuple[Any, ...]:
        """Call the Tensor's vjp; record the cotangent and the gradients."""
        self._calls.append(self.index)
        self.cotangent = np.asarray(g)
        gradients = self.tensor.vjp(self.cotangent)
        for slot, (parent, gradient) in enumerate(zip(self.parents, gradients, strict=True)):
            if parent.requires_grad:
                parent.arrivals.append((self.index, slot, np.asarray(gradient)))
        return gradients

    def free(self) -> None:
        """Free nothing: the trace keeps everything."""

    def node(
        self, texts: dict[int, tuple[str, str]], counted: set[int], names: dict[int, str]
    ) -> Node:
        """Return the record of this node, with the texts of its op and its memory."""
        tensor, vjp = self.tensor, self.tensor.grad_fn
        op, formula, source = "leaf" if self.requires_grad else "constant", "", ""
        if vjp is not None:
            op, code = tensor.op, id(_code(vjp) or vjp)
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
    """Return the trace of a model's loss, without dropout, with all paths and names.

    The model's mode and gradients stay unchanged.

    Parameters
    ----------
    ids, targets
        (B, T) integers; for errors see `GPT2Model.loss`. The default is a `random_batch`.
    seed
        Seed of the random batch.
    """
    validate.instance("model", model, GPT2Model, "watch and Trace.of take any other module")
    if (ids is None) != (targets is None):
        raise ValueError("give both ids and targets, or neither")
    if ids is None or targets is None:
        ids, targets = random_batch(model, seed)
    with model.evaluating(), enable_grad(), watch(model):
        return Trace.of(model.loss(ids, targets))


def random_batch(model: GPT2Model, seed: int = 0) -> tuple[Array, Array]:
    """Return random ids and targets, both (2, T): T is 16, or n_positions if that is less."""
    size = (2, min(model.config.n_positions, 16) + 1)
    rows = np.random.default_rng(seed).integers(model.config.vocab_size, size=size)
    return rows[:, :-1], rows[:, 1:]


def norm(array: Array) -> float:
    """Return the square root of the sum of squares, computed in float64.

    >>> norm(np.array([3e300, 4e300])), norm(np.array([1.0, np.inf]))
    (5e+300, inf)
    """
    return joint_norm([array.astype(np.float64, copy=False)])


# -- facts about an op -----------------------------------------------------------------------------


def _is_of_the_library(vjp: Any) -> bool:
    """Whether the vjp belongs to a built-in op: your op may have the same name."""
    return vjp is None or getattr(vjp, "__module__", "") in (
        "autograd.tensor",
        "npgpt2.functional",
    )


def _formula(vjp: Any) -> str:
    """Return the first paragraph of the docstring of the function in which a vjp was defined."""
    if not inspect.isfunction(vjp):
        return ""
    outer: Any = vjp.__globals__.get(vjp.__qualname__.partition(".<locals>")[0])
    function = inspect.unwrap(outer)  # the function inside its decorators
    if not inspect.isfunction(function) or vjp.__code__ not in function.__code__.co_consts:
        return ""  # defined deeper inside another function, or replaced since then
    return " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split("\n"))


def _code(vjp: Any) -> CodeType | None:
    """Return the code that runs if a vjp is called, or None if it is not written in Python."""
    while isinstance(vjp, partial):
        vjp = vjp.func
    if not inspect.isroutine(vjp):
        vjp = type(vjp).__call__
    function = vjp.__func__ if inspect.ismethod(vjp) else vjp
    return function.__code__ if inspect.isfunction(function) else None


def _source(vjp: Any) -> str:
    code = _code(vjp)
    try:
        return textwrap.dedent(inspect.getsource(code)).rstrip() if code else ""
    except (OSError, SyntaxError, IndexError):  # there is no such file, or it has changed
        return ""


def _saved(vjp: Any) -> Iterator[tuple[str, Array]]:
    """Yield (name, array) for the arrays that a vjp holds."""
    held: dict[str, Any] = {}
    if isinstance(vjp, partial):
        yield from _saved(vjp.func)
        held = {"args": vjp.args, **vjp.keywords}
    elif inspect.ismethod(vjp):
        yield from _saved(vjp.__func__)
        held = getattr(vjp.__self__, "__dict__", {})
    elif inspect.isfunction(vjp):
        for name, cell in zip(vjp.__code__.co_freevars, vjp.__closure__ or (), strict=True):
            try:
                held[name] = cell.cell_contents
            except ValueError:  # a variable that was never set
                continue
    elif not inspect.isroutine(vjp):
        held = getattr(vjp, "__dict__", {})
    for name, x in dict(held).items():
        yield from _arrays(name, x, ())


def _arrays(name: str, x: Any, around: tuple[int, ...]) -> Iterator[tuple[str, Array]]:
    if isinstance(x, np.ndarray):
        yield name, x
    elif isinstance(x, list | tuple) and id(x) not in around:  # a list may contain itself
        for i, item in enumerate(x):
            yield from _arrays(f"{name}[{i}]", item, (*around, id(x)))


def _new_bytes(arrays: Iterable[Array], counted: set[int]) -> int:
    """Return the bytes of the arrays that are not counted yet. A view counts as its whole base."""
    total = 0
    for array in arrays:
        while isinstance(array.base, np.ndarray):
            array = array.base
        if id(array) not in counted:
            counted.add(id(array))
            total += array.nbytes
    return total


def estimate_flops(op: str, shape: Sequence[int], parents: Sequence[Sequence[int]]) -> int:
    """Estimate the floating point operations of one vjp call, to compare ops with each other.

    - The product of an (N, K) and a (K, M) matrix costs 2 N K M. The vjps of `linear`, `matmul` and
      `linear_cross_entropy` compute two products, one for each operand.
    - `causal_attention` computes four products, over T (T + 1) / 2 pairs of positions.
    - Reshapes, transposes and joins only move numbers: 0.
    - `embedding` and `getitem` add up the cotangent: 1 for each of its entries.
    - All other ops, yours included: 1 for each entry of the largest array among the value and the
      operands. The vjp may have more steps, but memory limits the speed of these ops.

    `shape` is the shape of the value, and `parents` are the shapes of the operands.

    >>> estimate_flops("linear", (8, 3), [(8, 5), (3, 5), (3,)])  # 2 * (2 * 8 * 5 * 3)
    480
    """
    size, sizes = math.prod(shape), [math.prod(parent) for parent in parents]
    match op:
        case "leaf" | "constant" | "reshape" | "transpose" | "swapaxes" | "concatenate":
            return 0
        case "embedding" | "getitem":
            return size
        case "linear" | "matmul":  # each entry of the value is a sum of K products
            return 2 * 2 * size * parents[0][-1]
        case "linear_cross_entropy":
            return 2 * 2 * sizes[0] * parents[1][0]
        case "causal_attention":
            B, T, C = shape
            return 4 * 2 * B * C * (T * (T + 1) // 2)
        case _:
            return max([size, *sizes])
