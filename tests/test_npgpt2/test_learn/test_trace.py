"""A trace equals the backward pass of the engine, and watching a model changes no number."""

from __future__ import annotations

import gc
import inspect
import math
import weakref
from collections import Counter
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autograd import Tensor, concatenate, no_grad, record
from autograd.backward import backward, topological_order
from npgpt2 import Dropout, GPT2Config, GPT2Model, Linear, Module
from npgpt2 import functional as F
from npgpt2.learn.contributions import contributions, residual_stream
from npgpt2.learn.ledger import explain
from npgpt2.learn.page import write_page
from npgpt2.learn.trace import Trace, _names, _paths, estimate_flops, norm, trace_model, watch

CONFIG = GPT2Config(vocab_size=13, n_positions=8, n_embd=12, n_layer=2, n_head=2)
RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 13, size=(2, 7))
INPUTS, TARGETS = IDS[:, :-1], IDS[:, 1:]


def traced(config=CONFIG, dtype=np.float32):
    model = GPT2Model(config, dtype=dtype)
    with watch(model):
        loss = model.loss(INPUTS, TARGETS)
    return model, loss, Trace.of(loss)


def sum_in_order(arrivals):
    total = arrivals[0][2]
    for _, _, gradient in arrivals[1:]:
        total = total + gradient
    return total


# -- the pass ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_equal_backward_to_the_last_bit(dtype):
    model, loss, trace = traced(dtype=dtype)
    assert all(parameter.grad is None for parameter in model.parameters())
    loss.backward()  # the graph is still there
    for name, parameter in model.named_parameters():
        node = trace.node(parameter)
        assert node.name == name and node.dtype == dtype
        np.testing.assert_array_equal(node.cotangent, parameter.grad)
        np.testing.assert_array_equal(sum_in_order(node.arrivals), parameter.grad)


def test_each_vjp_is_called_once_in_the_engines_order():
    model, loss, trace = traced()
    order = topological_order(loss)
    asked = []

    class Spy:
        def __init__(self, tensor, spies):
            self.tensor, self.requires_grad = tensor, tensor.requires_grad
            self.parents = tuple(spies.get(id(p)) or Spy(p, {}) for p in tensor.parents or ())
            spies[id(tensor)] = self

        def vjp(self, g):
            asked.append(self.tensor)
            return self.tensor.vjp(g)

        def free(self):
            pass

    spies = {}
    for tensor in order:
        assert isinstance(tensor, Tensor)
        Spy(tensor, spies)
    backward(spies[id(loss)], np.ones((), np.float32))
    assert trace.calls == [trace.node(tensor).index for tensor in asked]
    inner = [node.index for node in trace.nodes if node.requires_grad and node.op != "leaf"]
    assert sorted(trace.calls) == inner
    assert trace.calls[0] == len(trace.nodes) - 1


def test_nodes_are_the_graph():
    _, loss, trace = traced()
    expected = {id(t) for t in topological_order(loss)}
    expected |= {id(p) for t in topological_order(loss) for p in t.parents or ()}
    assert len(trace.nodes) == len(expected)
    assert [node.index for node in trace.nodes] == list(range(len(trace.nodes)))
    for node in trace.nodes:
        assert all(parent < node.index for parent in node.parents)
        assert node.value.shape == node.shape
        if node.requires_grad:
            assert node.cotangent is not None
            assert (node.cotangent.shape, node.cotangent.dtype) == (node.shape, node.dtype)
        sent = Counter((i, slot) for i, slot, _ in node.arrivals)
        used = [(n.index, s) for n in trace.nodes for s, p in enumerate(n.parents)
                if p == node.index and node.requires_grad]  # fmt: skip
        assert sent == Counter(used)
        position = {call: i for i, call in enumerate(trace.calls)}
        times = [position[i] for i, _, _ in node.arrivals]
        assert times == sorted(times)


OPS = [
    lambda a, b: a + b,
    lambda a, b: a.tanh() * b.tanh(),
    lambda a, b: a.tanh() @ b.tanh(),
    lambda a, b: F.embedding(a, [2, 0, 2]),
    lambda a, b: concatenate([a, b])[1:4],
    lambda a, b: a.tanh() - b.T,
    lambda a, b: F.embedding(a, [1, 1, 1]).tanh() * F.embedding(a, [0, 1, 1]),
]


@given(
    st.lists(
        st.tuples(st.integers(0, len(OPS) - 1), st.integers(0, 9), st.integers(0, 9)), max_size=12
    ),
    st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_random_graphs(program, seed):
    rng = np.random.default_rng(seed)
    leaves = [Tensor(rng.standard_normal((3, 3)), requires_grad=i < 2) for i in range(3)]
    made = list(leaves)
    for kind, i, j in program:
        a, b = made[i % len(made)], made[j % len(made)]
        made.append(OPS[kind](a, b))
    root = made[-1] + made[0]
    g = rng.standard_normal(root.shape)
    trace = Trace.of(root, g)
    root.backward(g)
    for leaf in leaves[:2]:
        if leaf.grad is not None:
            node = trace.node(leaf)
            np.testing.assert_array_equal(node.cotangent, leaf.grad)
            np.testing.assert_array_equal(sum_in_order(node.arrivals or ((0, 0, g),)), leaf.grad)


def test_a_tensor_used_twice_by_one_op_gets_two_arrivals():
    x = Tensor([2.0, 3.0], requires_grad=True)
    (node,) = [n for n in Trace.of(x * x, [1.0, 10.0]).nodes if n.op == "leaf"]
    assert [(i, slot, g.tolist()) for i, slot, g in node.arrivals] == [
        (1, 0, [2.0, 30.0]),
        (1, 1, [2.0, 30.0]),
    ]


def test_rows_become_arrays():
    table = Tensor(np.ones((4, 2)), requires_grad=True)
    node = Trace.of(F.embedding(table, [3, 0, 3]).sum()).nodes[0]
    expected = [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [2.0, 2.0]]
    assert type(node.cotangent) is np.ndarray and type(node.arrivals[0][2]) is np.ndarray
    np.testing.assert_array_equal(node.arrivals[0][2], expected)
    np.testing.assert_array_equal(node.cotangent, expected)


def test_a_leaf_alone():
    x = Tensor(2.0, requires_grad=True)
    trace = Trace.of(x)
    assert trace.calls == [] and [n.op for n in trace.nodes] == ["leaf"]
    assert trace.nodes[0].cotangent == 1.0 and trace.nodes[0].arrivals == ()


def test_tracing_twice_gives_the_same_and_leaves_grad():
    model, loss, trace = traced()
    for parameter in model.parameters():
        parameter.grad = np.ones_like(parameter.data)
    again = Trace.of(loss)
    for one, other in zip(trace.nodes, again.nodes, strict=True):
        if one.cotangent is not None:
            np.testing.assert_array_equal(one.cotangent, other.cotangent)
    assert all((np.asarray(parameter.grad) == 1.0).all() for parameter in model.parameters())


def test_a_trace_keeps_no_graph_alive():
    model, loss, trace = traced()
    refs = [weakref.ref(tensor) for tensor in topological_order(loss)]
    del loss
    gc.collect()
    alive = [ref() for ref in refs if ref() is not None]
    assert trace.nodes and {id(t) for t in alive} == {id(p) for p in model.parameters()}


def test_labels_are_forgotten_with_their_tensors():
    """Otherwise a later Tensor at the same address would have the old label."""
    model, loss, trace = traced()
    labelled = {id(tensor) for tensor in topological_order(loss)}
    tables = (_names, _paths)
    assert all(labelled & table.keys() for table in tables)
    del model, loss, trace
    gc.collect()
    assert not any(labelled & table.keys() for table in tables)


def test_errors():
    x = Tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(RuntimeError, match="requires no gradient"):
        Trace.of(Tensor(1.0))
    with no_grad(), pytest.raises(RuntimeError, match="requires no gradient"):
        Trace.of(x.sum())
    with pytest.raises(ValueError, match=r"shape \(2,\) needs a cotangent"):
        Trace.of(x * x)
    with pytest.raises(ValueError, match=r"cotangent of shape \(3,\)"):
        Trace.of(x * x, np.ones(3))
    with pytest.raises(ValueError, match=r"shape \(\) is not part of the traced graph"):
        Trace.of((x * x).sum()).node(Tensor(1.0))
    loss = (x * x).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="freed by an earlier backward pass"):
        Trace.of(loss)


def test_a_wrong_vjp_is_the_engines_error():
    x = Tensor([1.0, 2.0], requires_grad=True)
    out = record(x.data, (x,), lambda g: (g[:1],))
    with pytest.raises(ValueError, match=r"returned a gradient of shape \(1,\)"):
        Trace.of(out.sum())


# -- facts about a node --------------------------------------------------------------------------


def square(a):
    """out = a**2;  da = 2 g a.

    And more.
    """
    x, unused = a.data, [np.zeros(3), (np.zeros((2, 1)), None)]

    def vjp(g):
        return (2.0 * g * x + 0.0 * unused[0][0],)

    return record(x * x, (a,), vjp)


def test_texts_come_from_the_op():
    def local(a):
        """Not to be found."""
        return record(a.data * 2, (a,), lambda g: (g * 2,))

    x = Tensor([1.0], requires_grad=True)
    _, squared, doubled, _ = Trace.of(local(square(x)).sum()).nodes
    assert squared.op == "square" and squared.formula == "out = a**2;  da = 2 g a."
    assert squared.source == "def vjp(g):\n    return (2.0 * g * x + 0.0 * unused[0][0],)"
    assert squared.saved == (("unused[0]", (3,)), ("unused[1][0]", (2, 1)), ("x", (1,)))
    assert doubled.op == "local" and doubled.formula == "" and "g * 2" in doubled.source
    _, _, trace = traced()
    for node in trace.nodes:
        has_texts = node.requires_grad and node.op != "leaf"
        assert (node.source != "") == has_texts == (node.formula != "")
        if hasattr(F, node.op):
            op = getattr(F, node.op)
            assert " ".join((inspect.getdoc(op) or "").split()).startswith(
                " ".join(node.formula.split())
            )
            assert "def vjp(g" in node.source
            assert node.source.splitlines()[-1].strip() in inspect.getsource(op)


class Doubling:
    def double(self, g):
        return (2.0 * g,)

    __call__ = double


@pytest.mark.parametrize(
    ("vjp", "name"), [(Doubling(), "Doubling"), (partial(Doubling().double), "double")]
)
def test_any_callable_may_be_a_vjp(vjp, name):
    trace = Trace.of(record(2.0, (Tensor(1.0, requires_grad=True),), vjp))
    assert (trace.nodes[1].op, trace.nodes[1].formula) == (name, "")
    assert "2.0 * g" in trace.nodes[1].source
    assert trace.nodes[0].cotangent == 2.0


def test_a_method_may_be_a_vjp():
    x = Tensor(1.0, requires_grad=True)
    trace = Trace.of(record(2.0, (x,), Doubling().double))
    assert (trace.nodes[1].op, trace.nodes[1].formula, trace.nodes[1].saved) == ("double", "", ())
    assert "2.0 * g" in trace.nodes[1].source
    assert trace.nodes[0].cotangent == 2.0


def test_an_op_that_was_replaced_later_has_no_formula(monkeypatch):
    out = square(Tensor([1.0], requires_grad=True)).sum()
    monkeypatch.setitem(globals(), "square", estimate_flops)
    node = Trace.of(out).nodes[1]
    assert node.op == "square" and node.formula == "" and "2.0 * g * x" in node.source


def test_memory_counts_every_array_once():
    x = Tensor(np.ones((4, 8)), requires_grad=True)
    trace = Trace.of((x.T.exp() * x.T).sum())
    by_op = {node.op: node.nbytes for node in trace.nodes}
    # exp saves its value, mul saves its operands, and a transpose is a view
    assert by_op == {"leaf": 256, "transpose": 0, "exp": 256, "mul": 256, "sum": 8}


def test_flops_are_counted_by_the_rule():
    B, T, C, V = 2, 3, 8, 11
    assert estimate_flops("leaf", (C,), []) == 0
    assert estimate_flops("reshape", (C, 1), [(1, C)]) == 0
    assert estimate_flops("embedding", (B, T, C), [(V, C)]) == B * T * C
    assert estimate_flops("sum", (), [(B, T)]) == B * T
    assert estimate_flops("matmul", (B, T, C), [(B, T, V), (V, C)]) == 4 * B * T * V * C
    assert estimate_flops("linear_cross_entropy", (), [(B, T, C), (V, C)]) == 4 * B * T * C * V
    assert estimate_flops("causal_attention", (B, T, C), [(B, T, 3 * C)]) == 8 * B * C * 6


# -- names -----------------------------------------------------------------------------------------


def test_paths_of_a_model():
    _, _, trace = traced()
    paths = [(n.path, n.op) for n in trace.nodes if n.op not in ("leaf", "constant")]
    block = [
        ("ln_1", "layer_norm"),
        ("attn.c_attn", "linear"),
        ("attn", "causal_attention"),
        ("attn.c_proj", "linear"),
        ("attn.resid_dropout", "dropout"),
        ("", "add"),
        ("ln_2", "layer_norm"),
        ("mlp.c_fc", "linear"),
        ("mlp", "gelu"),
        ("mlp.c_proj", "linear"),
        ("mlp.dropout", "dropout"),
        ("", "add"),
    ]
    blocks = [(f"h.{i}.{p}".rstrip("."), op) for i in range(2) for p, op in block]
    start = [("wte", "embedding"), ("wpe", "embedding"), ("", "add"), ("drop", "dropout")]
    assert paths == [*start, *blocks, ("ln_f", "layer_norm"), ("", "linear_cross_entropy")]
    assert [n.path for n in trace.nodes if n.op == "leaf" and n.name == "h.1.ln_2.bias"] == [
        "h.1.ln_2"
    ]


def test_a_forward_that_returns_its_input_makes_nothing():
    layer, drop = Linear(2, 2, rng=0), Dropout(0.5).eval()

    class Both(Module):
        def __init__(self):
            self.layer, self.drop = layer, drop

        def forward(self, x):
            return self.drop(self.drop(self.layer(x)) * 2.0)

    model = Both()
    x = Tensor(np.ones((1, 2), np.float32), requires_grad=True)
    with watch(model):
        out = model(x + x)
    nodes = Trace.of(out.sum()).nodes
    assert [(n.op, n.path) for n in nodes if n.op not in ("leaf", "sum")] == [
        ("add", ""),
        ("linear", "layer"),
        ("constant", ""),
        ("mul", ""),
    ]


def test_a_module_used_twice_has_one_path():
    class Twice(Module):
        def __init__(self):
            self.first = Linear(2, 2, rng=0)
            self.second = self.first

        def forward(self, x):
            return self.second(self.first(x).tanh())

    model = Twice()
    with watch(model):
        loss = model(Tensor(np.ones((1, 2), np.float32))).sum()
    nodes = Trace.of(loss).nodes
    assert [n.path for n in nodes if n.op == "linear"] == ["first", "first"]
    assert [path for path, _ in model.named_modules()] == ["", "first"]
    assert [n.name for n in nodes if n.name] == ["first.weight", "first.bias"]


def test_a_leaf_that_is_no_parameter_was_made_by_no_module():
    leaf = Tensor(2.0, requires_grad=True)

    class Inner(Module):
        def forward(self, x):
            return x * leaf

    class Outer(Module):
        def __init__(self):
            self.inner = Inner()

        def forward(self, x):
            return self.inner(x)

    model = Outer()
    with watch(model):
        out = model(Tensor(3.0, requires_grad=True))
    paths = [(n.op, n.path) for n in Trace.of(out).nodes]
    assert paths == [("leaf", ""), ("leaf", ""), ("mul", "inner")]


def test_keywords_lists_and_dicts_are_arguments_and_results():
    class Inner(Module):
        def forward(self, xs, *, more):
            return {"out": (xs[0] * more["a"], 1)}

    class Outer(Module):
        def __init__(self):
            self.inner = Inner()

        def forward(self, x):
            return self.inner([x + 1.0], more={"a": x - 1.0})["out"][0]

    model = Outer()
    with watch(model):
        out = model(Tensor(2.0, requires_grad=True))
    nodes = [n for n in Trace.of(out).nodes if n.op not in ("leaf", "constant")]
    assert [(n.op, n.path) for n in nodes] == [("add", ""), ("sub", ""), ("mul", "inner")]


def test_two_models_and_a_watch_inside_a_watch():
    one, other = Linear(2, 2, rng=0), GPT2Model(CONFIG)
    with watch(one), watch(other), watch(other.h[0]), watch(one):
        x = one(np.ones((1, 2), np.float32))
        loss = other.loss(INPUTS, TARGETS) + x.sum()
        assert "forward" in vars(other.h[0]) and "forward" in vars(one)
    nodes = Trace.of(loss).nodes
    assert {"h.0.attn", "ln_f"} <= {n.path for n in nodes}
    assert {"weight", "wte.weight", "h.0.ln_1.weight"} <= {n.name for n in nodes}
    assert not any("forward" in vars(m) for m in (one, *other.modules()))


def test_modules_are_as_before_even_after_an_error():
    model = GPT2Model(CONFIG)

    def own(*args):
        return type(model.ln_f).forward(model.ln_f, *args)

    model.ln_f.forward = own  # type: ignore[method-assign]
    before = [dict(vars(module)) for module in model.modules()]
    with pytest.raises(ValueError, match="input_ids"), watch(model):
        model(np.zeros((1, 1, 1), int))
    with watch(model):
        loss = model.loss(INPUTS, TARGETS)
    assert [dict(vars(module)) for module in model.modules()] == before
    assert model.ln_f.forward is own
    assert "ln_f" in {n.path for n in Trace.of(loss).nodes}


def test_the_caller_is_known_again_after_an_error():
    class Outer(Module):
        def __init__(self):
            self.layer, self.drop = Linear(2, 2), Dropout(0.5)

        def forward(self, x):
            with pytest.raises(ValueError, match="linear"):
                self.layer(x[0, :1])
            return self.drop(x * 2.0)

    model = Outer()
    with watch(model):
        out = model(Tensor(np.ones((1, 2), np.float32), requires_grad=True))
    assert [(n.op, n.path) for n in Trace.of(out.sum()).nodes if n.op in ("mul", "dropout")] == [
        ("mul", ""),
        ("dropout", "drop"),
    ]


def test_watching_changes_no_number():
    model, loss, _ = traced()
    plain = GPT2Model(CONFIG).loss(INPUTS, TARGETS)  # with the same dropout
    np.testing.assert_array_equal(loss.data, plain.data)


def test_without_watch_there_are_no_paths_and_a_model_gives_names():
    model = GPT2Model(CONFIG)
    loss = model.loss(INPUTS, TARGETS)
    assert {(n.name, n.path) for n in Trace.of(loss).nodes} == {("", "")}
    names = {n.name for n in Trace.of(loss, model=model).nodes if n.op == "leaf"}
    assert names == {name for name, _ in model.named_parameters()}


def test_a_model_is_traced_without_dropout_and_stays_in_its_mode():
    model = GPT2Model(CONFIG)
    nodes = trace_model(model, INPUTS, TARGETS).nodes
    assert model.training and model.h[0].mlp.dropout.training
    assert not any(node.op == "dropout" for node in nodes)
    with model.evaluating():
        assert nodes[-1].value == pytest.approx(model.loss(INPUTS, TARGETS).item(), rel=1e-6)
        again = trace_model(model, seed=1).nodes  # also under no_grad
    assert again[-2].shape == (2, 8, 12)
    assert again[-1].value != trace_model(model).nodes[-1].value
    with pytest.raises(ValueError, match="both ids and targets"):
        trace_model(model, INPUTS)
    with pytest.raises(IndexError, match="ids"):
        trace_model(model, INPUTS + 100, TARGETS)


def test_norms_are_added_up_in_float64():
    assert norm(np.full(4, 1e-30, np.float32)) == pytest.approx(2e-30, rel=1e-6)
    assert norm(np.array(-3.0)) == 3.0


def test_your_op_with_the_name_of_a_built_in_one_is_counted_by_its_size():
    def causal_attention(q):
        return record(2.0 * q.data, (q,), lambda g: (2.0 * g,))

    def linear(q):
        return record(2.0 * q.data, (q,), lambda g: (2.0 * g,))

    x = Tensor(np.ones((2, 3, 4, 5)), requires_grad=True)
    scalar = Tensor(1.0, requires_grad=True)
    nodes = Trace.of(causal_attention(x).sum() + linear(scalar)).nodes
    own = {node.op: node.flops for node in nodes if node.op in ("causal_attention", "linear")}
    assert own == {"causal_attention": 120, "linear": 1}


def test_the_result_of_an_op_called_leaf_is_no_leaf():
    def leaf(a):
        return record(a.data + 1.0, (a,), lambda g: (g,))

    x = Tensor(2.0, requires_grad=True)
    assert [node.is_leaf for node in Trace.of(leaf(x) * 2.0).nodes] == [True, False, False, False]


def tiny_model():
    return GPT2Model(GPT2Config(vocab_size=7, n_positions=4, n_embd=8, n_layer=1, n_head=2)).eval()


def test_names_given_to_a_trace_are_for_that_trace_alone():
    model = tiny_model()
    with watch(model):
        loss = model.loss([[1, 2]], [[2, 3]])
    weight = model.h[0].ln_1.weight
    assert Trace.of(loss, model=model.h[0]).node(weight).name == "ln_1.weight"
    assert Trace.of(loss).node(weight).name == "h.0.ln_1.weight"


def test_a_watched_model_cannot_be_copied():
    model = tiny_model()
    with watch(model), pytest.raises(TypeError, match="copied inside `with watch"):
        deepcopy(model)
    deepcopy(model)


@pytest.mark.parametrize("scale", [1e-200, 1e300, 1.0])
def test_norms_neither_overflow_nor_vanish(scale):
    assert norm(scale * np.array([3.0, 4.0])) == pytest.approx(5.0 * scale, rel=1e-12)
    assert norm(np.zeros(0)) == 0.0 and math.isnan(norm(np.array([scale, np.nan])))


# -- vjps that are not plain functions -------------------------------------------------------------


def times(g, k):
    return (g * k,)


class Times:
    def __init__(self, k):
        self.k = k

    def __call__(self, g):
        return (g * self.k,)

    def method(self, g):
        return (g * self.k,)


class Nameless(Times):
    """Any attribute exists, but none has the usual type."""

    def __getattr__(self, name):
        if name.startswith("__"):
            return 7
        raise AttributeError(name)


class Slotted:
    __slots__ = ()

    def __call__(self, g):
        return (g * 2.0,)


def in_a_circle():
    def wrapped(g):
        return (g * 2.0,)

    wrapped.__wrapped__ = wrapped  # `inspect.unwrap` refuses it
    return wrapped


TWO = np.full(2, 2.0)
TYPED = {}
exec("def typed(g):\n    return (g * 2.0,)\nshort = lambda g: (g * 2.0,)", TYPED)
exec(compile("def gone(g):\n    return (g * 2.0,)", "/nowhere/at_all.py", "exec"), TYPED)


def with_a_list_in_itself():
    arrays = [TWO]
    arrays.append(arrays)
    return lambda g: (g * arrays[0],)


VJPS = {
    "partial": (partial(times, TWO), "times", "def times", {"args[0]"}),
    "keyword": (partial(times, k=TWO), "times", "def times", {"k"}),
    "nested": (partial(partial(Times(TWO))), "Times", "def __call__", {"k"}),
    "object": (Times(TWO), "Times", "def __call__", {"k"}),
    "method": (Times(TWO).method, "method", "def method", {"k"}),
    "nameless": (Nameless(TWO), "Nameless", "def __call__", {"k"}),
    "slots": (Slotted(), "Slotted", "def __call__", set()),
    "wrapped": (in_a_circle(), "in_a_circle", "def wrapped", set()),
    "typed": (TYPED["typed"], "typed", "", set()),
    "lambda": (TYPED["short"], "<lambda>", "", set()),
    "gone": (TYPED["gone"], "gone", "", set()),
    "C": (tuple, "tuple", "", set()),  # the one row of g
    "list": (with_a_list_in_itself(), "with_a_list_in_itself", "return lambda", {"arrays[0]"}),
}


@pytest.mark.parametrize("name", VJPS)
def test_the_study_tools_work_with_any_callable_as_a_vjp(name, tmp_path):
    vjp, op, source, saved = VJPS[name]
    x = Tensor([1.0, 3.0], requires_grad=True)
    loss = (x + record(x.data[None] * 2.0 if vjp is tuple else x.data * 2.0, (x,), vjp)).sum()
    [node] = [n for n in Trace.of(loss).nodes if n.parents and n.op not in ("add", "sum")]
    assert node.op == op and {name for name, _ in node.saved} == saved
    assert node.source.startswith(source) if source else node.source == ""
    assert (source or "(Python cannot find its source)") in explain(loss)
    assert op in str(contributions(loss, x))
    assert vjp is tuple or residual_stream(loss).steps  # broadcasting is no residual sum
    write_page(Trace.of(loss), tmp_path / "page.html")
    loss.backward()
    assert x.grad is not None
