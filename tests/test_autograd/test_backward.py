"""The backward pass alone: the nodes hold plain Python numbers, not arrays."""

from __future__ import annotations

import ast
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autograd import backward as module
from autograd.backward import backward, topological_order

SEEDS = st.integers(0, 2**32 - 1)


class Node:
    """A number, the nodes it was computed from, and its derivative by each of them."""

    def __init__(
        self,
        value,
        parents=(),
        slopes=(),
        requires_grad=True,
    ):
        self.value, self.slopes, self.requires_grad = value, tuple(slopes), requires_grad
        self.parents: tuple[Node, ...] | None = tuple(parents)
        self.received: list[Any] = []  # every cotangent the vjp was called with

    def vjp(self, g):
        self.received.append(g)
        return tuple(g * slope for slope in self.slopes)

    def free(self):
        self.parents = None

    def __add__(self, other):
        return Node(self.value + other.value, (self, other), (1, 1))

    def __mul__(self, other):
        return Node(self.value * other.value, (self, other), (other.value, self.value))


def gradients(root, g=1, **options):
    """Run the pass; return the gradient of each leaf."""
    pairs = backward(root, g, **options)
    assert len({leaf for leaf, _ in pairs}) == len(pairs), "a leaf was returned twice"
    return dict(pairs)


def random_graph(seed):
    """Return random nodes and the exact derivative of the last by each leaf it depends on.

    Values are integers, so results are compared exactly. Each node comes with its derivatives,
    computed forward. Some leaves require no gradient, and some nodes are not used.
    """
    rng = random.Random(seed)
    nodes = [Node(0, requires_grad=i == 0 or rng.random() < 0.7) for i in range(rng.randint(1, 4))]
    derivatives = [{node: 1} if node.requires_grad else {} for node in nodes]
    for remaining in reversed(range(rng.randint(1, 12))):
        picked = [rng.randrange(len(nodes)) for _ in range(rng.randint(1, 4))]
        picked += [] if remaining else [0]  # the last node depends on at least one leaf
        slopes = [rng.randint(-3, 3) for _ in picked]
        total = {}
        for i, slope in zip(picked, slopes, strict=True):
            for leaf, d in derivatives[i].items():
                total[leaf] = total.get(leaf, 0) + slope * d
        nodes.append(Node(0, [nodes[i] for i in picked], slopes, bool(total)))
        derivatives.append(total)
    return nodes, derivatives[-1]


def below(root):
    """Return root and all nodes under it that require a gradient, in no particular order."""
    found = [root]
    for node in found:
        found += {p for p in node.parents or () if p.requires_grad and p not in found}
    return found


# -- it needs only the protocol ------------------------------------------------------------------


def test_backward_imports_typing_alone():
    imported = set()
    for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert imported == {"collections.abc", "typing"}


@pytest.mark.parametrize("number", [int, float, complex, Fraction])
def test_gradients_are_whatever_adds(number):
    x, g = Node(number(3)), number(5)
    result = gradients(x * x + x * Node(number(2), requires_grad=False), g)
    assert result == {x: number(40)}  # 5 * (3 + 3 + 2)
    assert type(result[x]) is number


def test_gradients_are_not_added_in_place():
    class Passing(Node):
        def vjp(self, g):
            return (g,) * len(self.parents)

    x, y, g = Node(1.0), Node(1.0), ["g"]
    assert gradients(Passing(1.0, [x, y, x]), g) == {x: ["g", "g"], y: ["g"]}
    assert g == ["g"]


# -- the chain rule ------------------------------------------------------------------------------


def test_chain_multiplies_slopes():
    x = Node(2.0)
    y = x * Node(3.0, requires_grad=False)
    assert gradients(y * y, 0.5) == {x: 0.5 * (2.0 * 6.0) * 3.0}


def test_diamond_adds_both_paths():
    a, b = Node(2.0), Node(5.0)
    left, right = a * b, a + b
    expected = {a: 5.0 * 7.0 + 10.0, b: 2.0 * 7.0 + 10.0}  # d(ab (a+b)): b (a+b) + ab, and so on
    assert gradients(left * right, 1.0) == expected


@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_value_used_k_times_gets_k_terms(k):
    x = Node(1.0)
    slopes = [2.0**i for i in range(k)]
    assert gradients(Node(0.0, [x] * k, slopes), -3.0) == {x: -3.0 * (2.0**k - 1.0)}


def test_skip_connection_waits_for_the_long_way_round():
    x = Node(1.0)
    y = Node(0.0, [x], [2.0])
    z = Node(0.0, [Node(0.0, [Node(0.0, [y], [3.0])], [5.0])], [7.0])
    root = Node(0.0, [y, z, y], [1.0, 1.0, 11.0])
    assert gradients(root, 1.0) == {x: 2.0 * (1.0 + 3.0 * 5.0 * 7.0 + 11.0)}
    assert y.received == [117.0]


@given(seed=SEEDS, g=st.integers(-5, 5))
def test_gradients_of_any_graph_are_the_forward_derivatives(seed, g):
    nodes, expected = random_graph(seed)
    assert gradients(nodes[-1], g) == {leaf: g * d for leaf, d in expected.items()}


def test_root_that_is_a_leaf_gets_its_cotangent():
    x = Node(1.0)
    assert gradients(x, 4.0) == {x: 4.0}


@given(seed=SEEDS)
def test_order_of_creation_does_not_matter(seed):
    rng = random.Random(seed)
    x, total = Node(3), Node(0, requires_grad=False)
    factors = [Node(i, requires_grad=False) for i in range(5)]
    rng.shuffle(factors)
    terms = [x * factor for factor in factors]
    rng.shuffle(terms)
    for term in terms:
        total = total + term if rng.random() < 0.5 else term + total
    assert gradients(total) == {x: 10}


@given(seed=SEEDS)
def test_dead_branches_change_nothing(seed):
    nodes, expected = random_graph(seed)
    alive = below(nodes[-1])
    consumers = [Node(0, [node, nodes[0]], [100, 100]) for node in nodes]
    assert gradients(nodes[-1]) == expected
    for node in [*consumers, *(n for n in nodes if n not in alive)]:
        assert node.received == [] and node.parents is not None


# -- which nodes are visited, and when -----------------------------------------------------------


@given(seed=SEEDS)
def test_every_node_comes_once_and_after_its_parents(seed):
    root = random_graph(seed)[0][-1]
    order = topological_order(root)
    assert len(order) == len(set(order))
    assert set(order) == set(below(root))
    assert order[-1] is root
    for i, node in enumerate(order):
        assert all(p in order[:i] for p in node.parents or () if p.requires_grad)


@given(seed=SEEDS)
def test_each_vjp_is_called_exactly_once(seed):
    nodes, _ = random_graph(seed)
    inner = [node for node in below(nodes[-1]) if node.parents]
    gradients(nodes[-1])
    for node in nodes:
        assert len(node.received) == (node in inner)


def test_nodes_that_require_no_gradient_are_not_visited():
    x, constant = Node(2.0), Node(3.0, requires_grad=False)
    barred = constant * constant
    barred.requires_grad = False
    root = x * barred
    assert barred not in topological_order(root)
    assert gradients(root, 1.0) == {x: 9.0}
    assert barred.received == [] and barred.parents == (constant, constant)


# -- freeing -------------------------------------------------------------------------------------


@given(seed=SEEDS)
def test_pass_frees_every_node_it_used_but_no_leaf(seed):
    root = random_graph(seed)[0][-1]
    used = {node: node.parents for node in below(root)}
    gradients(root)
    for node, parents in used.items():
        assert node.parents == (None if parents else ())


def test_node_is_freed_before_its_parents_send_back():
    seen = []

    class Watching(Node):
        def vjp(self, g):
            seen.append(top.parents)
            return super().vjp(g)

    middle = Watching(1.0, [Node(1.0)], [1.0])
    top = Node(1.0, [middle], [1.0])
    gradients(Node(1.0, [top], [1.0]))
    assert seen == [None]


@given(seed=SEEDS)
def test_retained_graph_gives_the_same_again(seed):
    root = random_graph(seed)[0][-1]
    parents = {node: node.parents for node in below(root)}
    first = gradients(root, 2, retain_graph=True)
    assert {node: node.parents for node in parents} == parents
    assert gradients(root, 2, retain_graph=True) == first
    assert gradients(root, 2) == first


def test_freed_node_is_an_error_that_leaves_the_rest_unchanged():
    x = Node(2.0)
    shared = x * x
    first, second = shared + x, Node(0.0, [x, shared, x], [1.0, 1.0, 1.0])
    root = second + second
    gradients(first, 1.0)
    with pytest.raises(RuntimeError, match=r"backward\(retain_graph=True\)"):
        backward(root, 1.0)
    with pytest.raises(RuntimeError, match=r"backward\(retain_graph=True\)"):
        backward(shared, 1.0)
    assert root.received == second.received == [] and shared.received == [1.0]
    assert root.parents == (second, second) and second.parents == (x, shared, x)


@pytest.mark.parametrize("slopes", [(), (1.0,), (1.0, 1.0, 1.0)])
@pytest.mark.parametrize("retain_graph", [False, True])
def test_another_number_of_gradients_than_parents_is_an_error(slopes, retain_graph):
    wrong = Node(0.0, [Node(1.0), Node(1.0)], slopes)
    with pytest.raises(ValueError, match="zip"):
        backward(Node(0.0, [wrong], [1.0]), 1.0, retain_graph=retain_graph)


@pytest.mark.parametrize("retain_graph", [False, True])
def test_depth_is_not_limited(retain_graph):
    x = node = Node(1)
    chain = []
    for _ in range(50_000):
        node = Node(1, [node, x], [1, 1])
        chain.append(node)
    assert gradients(node, retain_graph=retain_graph) == {x: 50_001}
    for link in reversed(chain):  # link by link: Python may fail to destroy a deep chain
        link.parents = None
