"""The backward pass: the whole of reverse-mode differentiation, in one sitting.

An expression is a graph of nodes. Each node knows its parents (what it was computed from) and
its vjp (vector-Jacobian product): given the cotangent g = dL/dnode, one gradient per parent.
The chain rule is then two sentences. A node's cotangent is the sum of what its consumers send
back. A node may send back only after all its consumers have, so nodes are visited in reverse
topological order, each exactly once.

Nothing here knows of arrays: gradients are whatever the vjps return, as long as `add` adds them.

Source: Griewank & Walther, Evaluating Derivatives, 2nd ed. 2008, section 3.2 (reverse mode).
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Node(Protocol):
    """What the walk asks of a node."""

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient is wanted here: of this leaf, or of some leaf below."""

    @property
    def parents(self) -> "Sequence[Node] | None":
        """What the node was computed from: empty at a leaf, None once freed."""

    def vjp(self, g: Any) -> tuple[Any, ...]:
        """One gradient per parent, given the cotangent g of this node."""

    def free(self) -> None:
        """Drop the parents and what the vjp saved."""


def topological_order(root: Node) -> list[Node]:
    """List the nodes below `root` that require a gradient, every node after its parents.

    Iterative, so the depth of a graph is not limited by the interpreter's stack.

    Raises
    ------
    RuntimeError
        A node of the graph was freed by an earlier backward pass.
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
    """so_far + gradient, as a new sum."""
    return so_far + gradient


def backward(
    root: Node, g: Any, *, retain_graph: bool = False, add: Callable[[Any, Any], Any] = plus
) -> list[tuple[Node, Any]]:
    """Send the cotangent `g` of `root` down to the leaves; return (leaf, gradient) pairs.

    Only this function adds gradients up, with `add`, which must not change a gradient that others
    hold too: one may be shared (addition returns the same one twice) or be a view of another.

    Every node is freed as soon as it has sent its gradients on, unless `retain_graph`: what it
    saved for its vjp goes while the pass is still running.
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
