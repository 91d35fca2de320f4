"""The backward pass: all of reverse-mode differentiation, short enough for one sitting.

An expression is a graph of nodes. Each node knows its parents, the nodes it was computed from. It
also knows its vjp (vector-Jacobian product): a function that takes the node's cotangent,
g = dL/dnode, and returns one gradient per parent.

The chain rule then takes two sentences. A node's cotangent is the sum of the gradients that its
consumers (the nodes computed from it) send back. A node can send gradients to its parents only
after all its consumers have sent theirs, so the pass visits the nodes in reverse topological order,
each exactly once.

This file knows nothing about arrays. A gradient may be any object, as long as `add` can add two of
them.

Source: Griewank & Walther, Evaluating Derivatives, 2nd ed. 2008, section 3.2 (reverse mode).
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Node(Protocol):
    """The attributes and methods of a node that the backward pass uses."""

    @property
    def requires_grad(self) -> bool:
        """Whether this leaf, or a leaf that this node was computed from, wants a gradient."""

    @property
    def parents(self) -> "Sequence[Node] | None":
        """The nodes that this one was computed from: empty at a leaf, None once freed."""

    def vjp(self, g: Any) -> tuple[Any, ...]:
        """Return one gradient per parent, given the cotangent g of this node."""

    def free(self) -> None:
        """Drop the parents, and everything that the vjp saved."""


def topological_order(root: Node) -> list[Node]:
    """List `root` and every node below it that requires a gradient, each after its parents.

    The nodes below a node are its parents, their parents, and so on. The walk is a loop without
    recursion, so a graph may be deeper than the interpreter's stack.

    Raises
    ------
    RuntimeError
        An earlier backward pass has freed a node of the graph.
    """
    order: list[Node] = []
    seen = {id(root)}
    stack = [(root, iter(_parents(root)))]
    while stack:
        node, unvisited = stack[-1]
        for parent in unvisited:
            if parent.requires_grad and id(parent) not in seen:
                seen.add(id(parent))
                stack.append((parent, iter(_parents(parent))))
                break
        else:
            order.append(node)
            stack.pop()
    return order


def _parents(node: Node) -> Sequence[Node]:
    if node.parents is None:
        raise RuntimeError(
            "this graph was freed by an earlier backward pass; "
            "keep it with backward(retain_graph=True), or run the forward again"
        )
    return node.parents


def plus(so_far: Any, gradient: Any) -> Any:
    """Return so_far + gradient, and change neither of them."""
    return so_far + gradient


def backward(
    root: Node, g: Any, *, retain_graph: bool = False, add: Callable[[Any, Any], Any] = plus
) -> list[tuple[Node, Any]]:
    """Send the cotangent `g` of `root` down to the leaves; return (leaf, gradient) pairs.

    Only this function adds up the gradients that a node gets from its consumers. It calls `add`,
    which must not change a gradient that another object holds too: two parents may share one
    gradient (addition returns the same one twice), and a gradient may be a view of another.

    Unless `retain_graph` is true, a node is freed as soon as it has sent gradients to its parents.
    So the pass releases the memory of saved values while it runs.

    Raises
    ------
    RuntimeError
        An earlier backward pass has freed a node of the graph.
    ValueError
        A vjp has returned more or fewer gradients than there are parents.
    """
    order = topological_order(root)
    cotangents = {id(root): g}
    leaves: list[tuple[Node, Any]] = []
    while order:
        node = order.pop()
        g = cotangents.pop(id(node))
        parents = _parents(node)
        if not parents:
            leaves.append((node, g))
            continue
        for parent, gradient in zip(parents, node.vjp(g), strict=True):
            if parent.requires_grad:
                key = id(parent)
                so_far = cotangents.pop(key, None)
                cotangents[key] = gradient if so_far is None else add(so_far, gradient)
        if not retain_graph:
            node.free()
    return leaves
