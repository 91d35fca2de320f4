"""Statements that are true of every computation, tested on random graphs."""

from __future__ import annotations

import gc
import re
import weakref
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autograd import Tensor, gradcheck
from autograd.testing import Graph, cotangent, graphs
from tests.test_npgpt2.cases import assert_close


def make_leaves(graph):
    return [Tensor(a, requires_grad=True) for a in graph.leaves]


def gradients(out, leaves, g=None):
    """Return dL/dleaf of every leaf: zeros if the output does not depend on the leaf."""
    for leaf in leaves:
        leaf.grad = None
    out.backward(cotangent(out.shape) if g is None else g)
    return [np.zeros(leaf.shape) if leaf.grad is None else leaf.grad for leaf in leaves]


def assert_all_close(these, those):
    for a, b in zip(these, those, strict=True):
        # The sums have the same few terms in another order. If terms cancel, an error of up to
        # 1e-13 of the largest remains.
        scale = max(1.0, float(np.abs(b).max(initial=0.0)))
        np.testing.assert_allclose(a, b, rtol=0.0, atol=1e-9 * scale)


@given(graphs())
def test_gradients_equal_complex_steps(graph):
    assert gradcheck(graph, graph.leaves, mode="complex").ok


@given(graphs(max_leaves=1))
def test_gradients_equal_difference_quotients(graph):
    # The error is about h**2 times the third derivative; this derivative is at most about 1e6.
    assert gradcheck(graph, graph.leaves, rtol=1e-4, atol=1e-4).ok


@given(graphs(), st.floats(-2.0, 2.0), st.floats(-2.0, 2.0))
def test_gradient_of_a_sum_of_losses_is_the_sum_of_gradients(graph, a, b):
    leaves = make_leaves(graph)

    def losses():
        out = graph(*leaves)
        return (out * cotangent(out.shape, seed=1)).sum(), (out * out).sum()

    one, two = (gradients(losses()[i], leaves) for i in (0, 1))
    first, second = losses()
    both = gradients(a * first + b * second, leaves)
    assert_all_close(both, [a * x + b * y for x, y in zip(one, two, strict=True)])


@given(graphs(), st.integers(1, 4))
def test_using_a_leaf_k_times_sums_the_gradients_of_k_copies(graph, k):
    shared = make_leaves(graph)
    copies = [make_leaves(graph) for _ in range(k)]
    one = sum(graph(*shared) for _ in range(k)) + 0.0
    many = sum(graph(*leaves) for leaves in copies) + 0.0
    of_shared = gradients(one, shared)
    all_copies = [leaf for leaves in copies for leaf in leaves]
    of_copies = gradients(many, all_copies)
    sums = [sum(of_copies[i :: len(shared)]) for i in range(len(shared))]
    assert_all_close(of_shared, sums)


@given(graphs(), st.booleans())
def test_dead_branches_leave_every_gradient_the_same(graph, keep):
    leaves = make_leaves(graph)
    expected = gradients(graph(*leaves), leaves)
    values = graph.values(*leaves)
    dead = [(value * value).sum() for value in values]
    if not keep:
        dead.clear()
    for a, b in zip(gradients(values[-1], leaves), expected, strict=True):
        assert np.array_equal(a, b)
    assert all(d.parents for d in dead)  # backward did not visit them, so it did not free them


def below(root):
    """Return root and all nodes under it that require a gradient."""
    found = {id(root): root}
    stack = [root]
    while stack:
        for parent in stack.pop().parents or ():
            if parent.requires_grad and id(parent) not in found:
                found[id(parent)] = parent
                stack.append(parent)
    return list(found.values())


@given(graphs())
def test_every_vjp_is_called_exactly_once(graph):
    out = graph(*make_leaves(graph))
    expected = {id(node): 1 for node in below(out) if node.parents}
    calls = {}
    vjp = Tensor.vjp

    def counted(self, g):
        calls[id(self)] = calls.get(id(self), 0) + 1
        return vjp(self, g)

    with mock.patch.object(Tensor, "vjp", counted):
        out.backward(cotangent(out.shape))
    assert calls == expected


@given(graphs(), st.randoms(use_true_random=False))
def test_order_of_creation_does_not_matter(graph, random):
    leaves = make_leaves(graph)
    expected = gradients(graph(*leaves), leaves)
    n = len(leaves)
    needs = [{int(name) for name in names(line)} for line in graph.lines]
    ready = dict(enumerate(leaves))
    waiting = list(range(len(graph.lines)))
    while waiting:
        i = random.choice([i for i in waiting if needs[i] <= ready.keys()])
        waiting.remove(i)
        operands = Graph(graph.leaves, (graph.lines[i],))
        everything = [ready.get(j, Tensor(0.0)) for j in range(n + len(graph.lines))]
        ready[n + i] = operands(*everything)
    assert_all_close(gradients(ready[n + len(graph.lines) - 1], leaves), expected)


def names(line):
    """Return the numbers of the values that occur in a line."""
    return re.findall(r"\bv(\d+)\b", line)


@given(graphs())
def test_leaves_values_and_cotangent_keep_their_bytes(graph):
    leaves = make_leaves(graph)
    values = graph.values(*leaves)
    g = cotangent(values[-1].shape)
    before = [value.data.tobytes() for value in values], g.tobytes()
    arrays = [value.data for value in values]
    gradients(values[-1], leaves, g)
    assert ([a.tobytes() for a in arrays], g.tobytes()) == before


@given(graphs())
def test_gradients_share_memory_with_nothing(graph):
    leaves = make_leaves(graph)
    values = graph.values(*leaves)
    g = cotangent(values[-1].shape)
    made = gradients(values[-1], leaves, g)
    for i, gradient in enumerate(made):
        assert gradient.flags.writeable
        for other in (g, *(value.data for value in values), *made[:i]):
            assert not np.shares_memory(gradient, other)


@given(graphs(), st.sampled_from([np.float32, np.float64]))
def test_every_value_and_gradient_has_the_dtype_of_the_leaves(graph, dtype):
    leaves = [Tensor(a.astype(dtype), requires_grad=True) for a in graph.leaves]
    values = graph.values(*leaves)
    assert {value.dtype for value in values} == {np.dtype(dtype)}
    values[-1].backward(cotangent(values[-1].shape))
    for leaf in leaves:
        assert leaf.grad is None or (leaf.grad.dtype, leaf.grad.shape) == (dtype, leaf.shape)


@given(graphs())
def test_the_same_graph_gives_the_same_bits(graph):
    results = []
    for _ in range(2):
        leaves = make_leaves(graph)
        out = graph(*leaves)
        results.append([out.data, *gradients(out, leaves)])
    for a, b in zip(*results, strict=True):
        assert np.array_equal(a, b)


def watch(out):
    """Return weak references to the intermediate results of `out`."""
    return [weakref.ref(node) for node in below(out) if node is not out and node.parents]


@given(graphs(), st.booleans())
def test_all_values_die_with_the_last_one_or_in_backward(graph, backward):
    leaves = make_leaves(graph)
    gc.disable()  # now a value is freed only when nothing refers to it
    try:
        out = graph(*leaves)
        on_the_way = watch(out)
        if backward:
            gradients(out, leaves)
        else:
            del out
        assert not [ref for ref in on_the_way if ref() is not None]
    finally:
        gc.enable()


@given(graphs())
def test_second_backward_pass_is_an_error_that_changes_nothing(graph):
    leaves = make_leaves(graph)
    out = graph(*leaves)
    gradients(out, leaves)
    first = [leaf.grad for leaf in leaves]
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        out.backward(cotangent(out.shape))
    assert all(leaf.grad is gradient for leaf, gradient in zip(leaves, first, strict=True))


@given(graphs())
def test_the_printed_program_computes_the_same(graph):
    names_in = {}
    exec(f"import numpy as np\nfrom autograd import *\n{graph!r}", names_in)
    last = names_in[f"v{len(graph.leaves) + len(graph.lines) - 1}"]
    assert_close(last.data, graph(*make_leaves(graph)).data)
