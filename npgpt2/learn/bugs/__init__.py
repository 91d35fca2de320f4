"""A catalogue of bugs: real ones from other implementations, and slips made on paper.

Each is a change to one function of this library, small enough to overlook. `injected` puts it in
place for a while, everywhere the function is known:

>>> from autograd import Tensor
>>> from npgpt2 import functional as F
>>> x = Tensor([-1.0, 2.0])
>>> with BUGS["gelu-cubic-coefficient"].injected():
...     F.gelu(x).data.round(3)
array([-0.168,  1.925])
>>> F.gelu(x).data.round(3)
array([-0.159,  1.955])
>>> print(BUGS["gelu-cubic-coefficient"].diff())
--- functional.gelu
+++ gelu-cubic-coefficient
-    a, c = 0.044715, math.sqrt(2.0 / math.pi)
+    a, c = 0.0044715, math.sqrt(2.0 / math.pi)

Which check notices which of them is measured in `detectors.py`.
"""

from __future__ import annotations
import __future__

import difflib
import inspect
import linecache
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any, cast

from autograd import backward as engine
from autograd import check, ownership
from autograd import tensor as ops
from autograd.rows import Rows
from autograd.tensor import Tensor
from npgpt2 import functional as F
from npgpt2 import layers, model, module, optim
from npgpt2.generation import generation, sampling
from npgpt2.training import data


@dataclass(frozen=True)
class Bug:
    """Wrong code in place of right code, in one function.

    Attributes
    ----------
    name
        Short and unique.
    function
        The function or method whose code is wrong.
    right, wrong
        A part of its source (dedented) that occurs exactly once, and what stands there instead.
    lesson
        What is wrong, and why it is overlooked.
    also
        Further pairs of right and wrong, where one is not enough.
    """

    name: str
    function: Callable[..., Any]
    right: str
    wrong: str
    lesson: str
    also: tuple[tuple[str, str], ...] = ()

    @property
    def title(self) -> str:
        """The function's module and name, e.g. functional.gelu."""
        module = self.function.__module__.rpartition(".")[2]
        return f"{module}.{self.function.__qualname__}"

    def sources(self) -> tuple[str, str]:
        """Return the source of the function as it is, and with the bug.

        Raises
        ------
        ValueError
            A right part does not occur exactly once.
        """
        original = source = textwrap.dedent(inspect.getsource(self.function))
        for right, wrong in ((self.right, self.wrong), *self.also):
            if source.count(right) != 1:
                raise ValueError(
                    f"bug {self.name}: {self.title} must contain this exactly once, "
                    f"not {source.count(right)} times: {right!r}"
                )
            source = source.replace(right, wrong)
        return original, source

    def diff(self) -> str:
        """Return the changed lines, those that go marked with -, those that come with +."""
        before, after = (source.splitlines() for source in self.sources())
        lines = difflib.unified_diff(before, after, self.title, self.name, n=0, lineterm="")
        return "\n".join(line for line in lines if not line.startswith("@@"))

    @contextmanager
    def injected(self) -> Iterator[None]:
        """Inside this block the function has the bug; afterwards it is as it was, also on errors.

        Only its code object is exchanged, so that every alias of the function, method and
        operator has the bug too. That holds for the whole process: not for use by several
        threads at once. Blocks may be nested.
        """
        _, source = self.sources()
        function = cast(FunctionType, self.function)
        filename = f"<bug {self.name}>"
        compiled = compile(
            source, filename, "exec", __future__.annotations.compiler_flag, dont_inherit=True
        )
        (code,) = (c for c in compiled.co_consts if isinstance(c, CodeType))
        # So that tracebacks and inspect.getsource show the wrong code.
        linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
        before, function.__code__ = function.__code__, code
        try:
            yield
        finally:
            function.__code__ = before
            linecache.cache.pop(filename, None)


# -- the engine ----------------------------------------------------------------------------------

_ENGINE = (
    Bug(
        "engine-assigns",
        engine.backward,
        "cotangents[key] = gradient if so_far is None else add(so_far, gradient)",
        "cotangents[key] = gradient",
        "A value that is used twice keeps only one of its gradients: d(x*x)/dx = x. A chain "
        "without sharing hides it.",
    ),
    Bug(
        "engine-adds-in-place",
        ownership.accumulate,
        "if _is_plain_array(so_far) and sys.getrefcount(so_far) == _SOLE_OWNER_REFCOUNT:",
        "if _is_plain_array(so_far):",
        "A gradient may be shared: a + b sends the same array to both. Adding to it in place "
        "changes the other's too, but only in some orders of visiting.",
    ),
    Bug(
        "engine-pre-order",
        engine.topological_order,
        "order: list[Node] = []",
        "order: list[Node] = [root]",
        "Nodes are visited before their consumers are done. Wrong on a diamond with unequal "
        "branches; right on trees and chains.",
        also=(
            ("            order.append(node)\n", ""),
            ("seen.add(id(parent))", "seen.add(id(parent))\n                order.append(parent)"),
            ("return order", "return order[::-1]"),
        ),
    ),
    Bug(
        "engine-recursive",
        engine.topological_order,
        "    stack = [(root, iter(_parents(root)))]\n"
        "    while stack:\n"
        "        node, unvisited = stack[-1]\n"
        "        for parent in unvisited:\n"
        "            if parent.requires_grad and id(parent) not in seen:\n"
        "                seen.add(id(parent))\n"
        "                stack.append((parent, iter(_parents(parent))))\n"
        "                break\n"
        "        else:\n"
        "            order.append(node)\n"
        "            stack.pop()\n",
        "    def visit(node: Node) -> None:\n"
        "        for parent in _parents(node):\n"
        "            if parent.requires_grad and id(parent) not in seen:\n"
        "                seen.add(id(parent))\n"
        "                visit(parent)\n"
        "        order.append(node)\n"
        "\n"
        "    visit(root)\n",
        "Recursion dies at the interpreter's limit of about 1,000 nodes in a row, which no small "
        "test reaches.",
    ),
    Bug(
        "engine-walks-every-path",
        engine.backward,
        "    order = topological_order(root)\n"
        "    cotangents = {id(root): g}\n"
        "    leaves: list[tuple[Node, Any]] = []\n"
        "    while order:\n"
        "        node = order.pop()\n"
        "        g = cotangents.pop(id(node))\n",
        "    order = topological_order(root)\n"
        "    leaves: list[tuple[Node, Any]] = []\n"
        "    paths = [(root, g)]\n"
        "    while paths:\n"
        "        node, g = paths.pop()\n",
        "Every path is followed by itself. The gradients are right, but n residual connections "
        "make 2**n paths: invisible in a model of two layers, endless in one of forty.",
        also=(
            (
                "                key = id(parent)\n"
                "                so_far = cotangents.pop(key, None)\n"
                "                cotangents[key] = gradient if so_far is None else add(so_far, "
                "gradient)\n"
                "        if not retain_graph:\n",
                "                paths.append((parent, gradient))\n"
                "    for node in order:\n"
                "        if node.parents and not retain_graph:\n",
            ),
        ),
    ),
    Bug(
        "grad-assigned",
        Tensor.backward,
        "own(gradient) if leaf.grad is None else np.array(leaf.grad + gradient)",
        "own(gradient)",
        "A second backward pass replaces .grad instead of adding to it: gradients of "
        "micro-batches are lost. With one pass a step it never shows.",
    ),
    Bug(
        "grad-not-owned",
        ownership.own,
        "return np.array(gradient)",
        "return np.asarray(gradient)",
        "Two leaves may be left with one and the same array, as a + b sends one to both; "
        "clipping, which scales in place, then scales it twice.",
    ),
    Bug(
        "unbroadcast-leading-only",
        ops.unbroadcast,
        "axes = tuple(range(leading)) + tuple(leading + i for i, n in enumerate(shape) if n == 1)",
        "axes = tuple(range(leading))",
        "Axes of size 1 are broadcast too. A bias of shape (C,) never has one.",
    ),
    Bug(
        "unbroadcast-averages",
        ops.unbroadcast,
        "g.sum(axis=axes)",
        "g.mean(axis=axes)",
        "A value that is used many times gets the sum of all gradients, not their mean. The "
        "direction stays right, and Adam does not see a scale.",
    ),
    Bug(
        "gradcheck-compares-with-itself",
        check._Check.directions,
        "analytic, numeric = float(np.sum(gradient * v)), self.numeric(name, v)",
        "analytic = numeric = float(np.sum(gradient * v))",
        "A checker that compares a number with itself never fails; only a test that hands it a "
        "wrong gradient tells.",
    ),
)

# -- primitive ops -------------------------------------------------------------------------------

_OPS = (
    Bug(
        "sub-sign",
        ops.sub,
        "unbroadcast(-g, b_shape)",
        "unbroadcast(g, b_shape)",
        "The gradient of what is subtracted has the other sign; a constant there hides it.",
    ),
    Bug(
        "mul-own-operand",
        ops.mul,
        "unbroadcast(g * y, x.shape), unbroadcast(g * x, y.shape)",
        "unbroadcast(g * x, x.shape), unbroadcast(g * y, y.shape)",
        "Each operand's gradient is g times the other one. For x * x it makes no difference.",
    ),
    Bug(
        "mul-no-unbroadcast",
        ops.mul,
        "unbroadcast(g * x, y.shape)",
        "g * x",
        "The gradient of a broadcast operand keeps the shape of the result. Shows only where "
        "shapes differ.",
    ),
    Bug(
        "div-square-forgotten",
        ops.div,
        "-da * (x / y)",
        "-da * x",
        "d(a/b)/db = -a / b**2: the square got lost. Right where b is 1 or a constant.",
    ),
    Bug(
        "div-sign",
        ops.div,
        "-da * (x / y)",
        "da * (x / y)",
        "d(a/b)/db = -a / b**2: the sign got lost.",
    ),
    Bug(
        "power-exponent",
        ops.power,
        "x ** (n - 1 if n else 0)",
        "x**n",
        "d(a**n)/da = n a**(n-1): the exponent was not lowered. Right at a = 1.",
    ),
    Bug(
        "matmul-untransposed",
        ops.matmul,
        "da = g @ y.swapaxes(-1, -2)",
        "da = g @ y",
        "da = g @ b^T. Square matrices accept b as well, so tests with one size pass the shapes.",
    ),
    Bug(
        "exp-of-input",
        ops.exp,
        "(g * out,)",
        "(g * a.data,)",
        "exp is its own derivative: it is the output that belongs here, not the input.",
    ),
    Bug(
        "exp-forgets-cotangent",
        ops.exp,
        "(g * out,)",
        "(out,)",
        "A derivative, where a vector-Jacobian product was asked for. With a cotangent of ones "
        "they are the same.",
    ),
    Bug(
        "log-inverted",
        ops.log,
        "(g / x,)",
        "(g * x,)",
        "d log(a)/da = 1 / a. Right at a = 1.",
    ),
    Bug(
        "tanh-square-forgotten",
        ops.tanh,
        "1.0 - out * out",
        "1.0 - out",
        "tanh' = 1 - tanh**2. Right at 0, and where tanh saturates at 1.",
    ),
    Bug(
        "tanh-forgets-cotangent",
        ops.tanh,
        "(g * (1.0 - out * out),)",
        "(1.0 - out * out,)",
        "The local derivative alone. With a cotangent of ones, which is what sum().backward() "
        "sends, nothing is missing.",
    ),
    Bug(
        "sqrt-of-input",
        ops.sqrt,
        "(g / (2.0 * out),)",
        "(g / (2.0 * a.data),)",
        "sqrt' = 1 / (2 sqrt(a)): the output belongs here, not the input. Right at a = 1.",
    ),
    Bug(
        "where-branches-swapped",
        ops.where,
        "np.where(condition, g, 0.0), np.where(condition, 0.0, g)",
        "np.where(condition, 0.0, g), np.where(condition, g, 0.0)",
        "The gradient goes to the branch that was not taken.",
    ),
    Bug(
        "sum-axis-not-expanded",
        ops.sum,
        "np.broadcast_to(_expand(g, axis, keepdims), shape)",
        "np.broadcast_to(g, shape)",
        "Broadcasting aligns the last axes, so the gradient of a sum over axis 1 of a square "
        "matrix comes back transposed, without an error.",
    ),
    Bug(
        "mean-of-everything",
        ops.mean,
        "prod(a.shape[i] for i in axes)",
        "a.size",
        "Divided by the number of all elements, not of those averaged into each. Value and "
        "gradient agree, so that no gradient check can tell.",
    ),
    Bug(
        "max-all-ties",
        ops.max,
        "(_expand(g, axis, keepdims) / ties)",
        "_expand(g, axis, keepdims)",
        "Every largest element gets all of the gradient. Random numbers have no ties.",
    ),
    Bug(
        "reshape-detached",
        ops.reshape,
        "return record(a.data.reshape(*cast(Any, shape)), (a,), vjp)",
        "return Tensor(a.data.reshape(*cast(Any, shape)))",
        "The reshaped array is right and is a constant: no error, no gradient.",
    ),
    Bug(
        "transpose-same-order",
        ops.transpose,
        "g.transpose(np.argsort(order))",
        "g.transpose(order)",
        "The way back is the inverse permutation. Exchanging two axes is its own inverse; three "
        "in a cycle are not.",
    ),
    Bug(
        "swapaxes-reshaped",
        ops.swapaxes,
        "(g.swapaxes(axis1, axis2),)",
        "(g.reshape(a.shape),)",
        "Reshaped until it fits instead of swapped back: the shape is right, the order is not.",
    ),
    Bug(
        "getitem-plus-equals",
        ops.getitem,
        "np.add.at(da, index, g)",
        "da[index] += g",
        "NumPy's += through an integer array counts a repeated index once.",
    ),
    Bug(
        "concatenate-order",
        ops.concatenate,
        "np.split(g, ends, axis=axis)",
        "np.split(g, ends, axis=axis)[::-1]",
        "The pieces are handed out in the wrong order; equal sizes raise no error.",
    ),
)

# -- fused ops -----------------------------------------------------------------------------------

_FUSED = (
    Bug(
        "linear-dx-untransposed",
        F.linear,
        "dx = (g @ w)",
        "dx = (g @ w.T)",
        "The forward has w.T, so the backward has w. Where n_in = n_out both fit.",
    ),
    Bug(
        "linear-dw-reshaped",
        F.linear,
        "dw = g.T @ rows",
        "dw = (rows.T @ g).reshape(w.shape)",
        "dw came out transposed and was reshaped until it fitted: the right numbers in the "
        "wrong places.",
    ),
    Bug(
        "linear-bias-mean",
        F.linear,
        "(dx, dw, _sum_rows(g))",
        "(dx, dw, g.mean(axis=0))",
        "The bias is used once per row: its gradient is the sum over rows, not the mean. Adam "
        "does not see the scale.",
    ),
    Bug(
        "embedding-overwrites",
        Rows.__init__,
        "np.add.reduceat(values[order], starts, axis=0)",
        "values[order][starts]",
        "A token that occurs twice in the batch gets the gradient of one place only. Tests with "
        "different ids pass.",
    ),
    Bug(
        "embedding-negative-ids",
        F.embedding,
        'indices = validate.ids("ids", ids, w.shape[0])',
        "indices = np.asarray(ids)",
        "NumPy takes -1 for the last row, so a padding mark of -100 or -1 silently becomes a word.",
    ),
    Bug(
        "layer-norm-mean-term",
        F.layer_norm,
        "        dx -= along_1\n",
        "",
        "The mean depends on x too. Without this term dx no longer sums to 0 over channels, "
        "and the model trains all the same.",
    ),
    Bug(
        "layer-norm-variance-term",
        F.layer_norm,
        "        dx -= np.multiply(xhat, along_xhat, out=g_xhat)\n",
        "",
        "The variance depends on x too. Without this term the gradient has a part along xhat "
        "that changes nothing, and the model trains all the same.",
    ),
    Bug(
        "layer-norm-rstd-forgotten",
        F.layer_norm,
        "        dx *= rstd\n",
        "",
        "The division by the standard deviation belongs into the gradient. Right for inputs of "
        "variance 1, as random test inputs are.",
    ),
    Bug(
        "layer-norm-gain-forgotten",
        F.layer_norm,
        "dx = g * w  # dxhat",
        "dx = g.copy()",
        "The gain stands between the cotangent and xhat. It is 1 in every fresh model.",
        also=(
            ("(g_xhat @ w)", "(g_xhat @ np.ones_like(w))"),
            ("(g @ w)", "(g @ np.ones_like(w))"),
        ),
    ),
    Bug(
        "layer-norm-dw-of-shift",
        F.layer_norm,
        "_sum_rows(g_xhat), _sum_rows(g)",
        "_sum_rows(g), _sum_rows(g)",
        "The gain's gradient is that of the shift: xhat is forgotten.",
    ),
    Bug(
        "layer-norm-unbiased",
        F.layer_norm,
        "[:, None] / C + eps",
        "[:, None] / (C - 1) + eps",
        "The variance divided by C - 1, as some libraries do by default. At C = 768 the "
        "result differs by less than a part in a thousand.",
    ),
    Bug(
        "layer-norm-no-eps",
        F.layer_norm,
        "[:, None] / C + eps",
        "[:, None] / C",
        "Without eps a row of equal numbers is 0/0; others differ by less than anyone looks at.",
    ),
    Bug(
        "layer-norm-eps-outside",
        F.layer_norm,
        "np.sqrt(_dot(centred, centred)[:, None] / C + eps)",
        "(np.sqrt(_dot(centred, centred)[:, None] / C) + eps)",
        "eps belongs under the root, to the variance. At 1e-5 the difference is small, but for "
        "a row of small numbers it is not.",
    ),
    Bug(
        "gelu-cubic-coefficient",
        F.gelu,
        "a, c = 0.044715,",
        "a, c = 0.0044715,",
        "One zero too many: an error of up to 0.029 that value and gradient share, so that no "
        "gradient check can tell.",
    ),
    Bug(
        "gelu-erf",
        F.gelu,
        "np.exp(s, out=s)\n            s += 1.0\n            np.divide(1.0, s, out=s)",
        "s = 0.5 + 0.5 * np.vectorize(math.erf, [z.dtype.char])(z[n] / math.sqrt(2.0))",
        "GPT-2 was trained with the tanh form; the exact one differs by up to 4.7e-4, which a "
        "tolerance of 1e-2 or 1e-3 hides.",
        also=(
            (
                "d *= s\n",
                "d[...] = s + z[n] * np.exp(z[n] * z[n] / -2.0) / math.sqrt(2.0 * math.pi)\n",
            ),
        ),
    ),
    Bug(
        "gelu-chain-rule-3",
        F.gelu,
        "zz *= 6.0 * a * c",
        "zz *= 2.0 * a * c",
        "d(x**3)/dx = 3 x**2: the 3 is lost, in a term that is small near 0.",
    ),
    Bug(
        "gelu-product-rule",
        F.gelu,
        "                d += 1.0\n",
        "",
        "d(x s)/dx = s + x ds/dx: the first term is lost.",
    ),
    Bug(
        "gelu-float64-buffer",
        F.gelu,
        "out = np.empty_like(z)\n",
        "out = np.empty(z.shape)\n",
        "An array made without a dtype is float64, and all that is computed from it: "
        "twice the memory, half the speed, and no number looks wrong.",
    ),
    Bug(
        "softmax-elementwise",
        F.softmax,
        "(p * (g - np.sum(g * p, axis=-1, keepdims=True)),)",
        "(g * p * (1.0 - p),)",
        "p (1 - p) is only the diagonal of the Jacobian: every output depends on every input.",
    ),
    Bug(
        "softmax-unweighted-mean",
        F.softmax,
        "np.sum(g * p, axis=-1, keepdims=True)",
        "np.mean(g, axis=-1, keepdims=True)",
        "What is subtracted is the mean of g weighted by p. With a cotangent of ones the result "
        "is 0 either way.",
    ),
    Bug(
        "softmax-zero-gradient",
        F.softmax,
        "(p * (g - np.sum(g * p, axis=-1, keepdims=True)),)",
        "(np.zeros_like(g),)",
        "The probabilities sum to 1, so with a cotangent of ones the true gradient is 0: that "
        "test accepts a softmax that has no gradient at all.",
    ),
    Bug(
        "softmax-changes-its-input",
        F.softmax,
        "x.data.copy()",
        "x.data",
        "x -= max works in place: other consumers of x, and x in the backward pass, see other "
        "numbers.",
    ),
    Bug(
        "softmax-overflows",
        F._softmax_inplace,
        "    z -= np.maximum.reduce(z.real, axis=-1, keepdims=True)\n",
        "",
        "exp overflows at 709 in float64, at 88 in float32. Fresh models have small logits.",
    ),
    Bug(
        "dropout-backward-new-mask",
        F.dropout,
        "(g * scaled_mask,)",
        "(g * _dropout_mask(g.shape, g.dtype, p, rng),)",
        "The backward pass draws another mask than the forward pass. The loss still goes down.",
    ),
    Bug(
        "dropout-backward-no-mask",
        F.dropout,
        "(g * scaled_mask,)",
        "(g,)",
        "What was dropped still gets a gradient.",
    ),
    Bug(
        "dropout-backward-unscaled",
        F.dropout,
        "(g * scaled_mask,)",
        "(g * (scaled_mask > 0.0),)",
        "The factor 1/(1-p) of the forward pass belongs into the backward pass too.",
    ),
    Bug(
        "dropout-unscaled",
        F._dropout_mask,
        " * (1.0 / (1.0 - p))",
        "",
        "Without 1/(1-p) activations are smaller in training than in evaluation; value and "
        "gradient agree.",
    ),
    Bug(
        "dropout-keeps-p",
        F._dropout_mask,
        "dtype=np.float32) >= p",
        "dtype=np.float32) < p",
        "p is the probability to drop, here it is the one to keep. At p = 0.5 there is no "
        "difference.",
    ),
    Bug(
        "attention-scale-n-embd",
        F.causal_attention,
        "scale = 1.0 / math.sqrt(D)",
        "scale = 1.0 / math.sqrt(C)",
        "The scale is that of one head, D = C/H, not of all channels. With one head it is right.",
    ),
    Bug(
        "attention-backward-unscaled",
        F.causal_attention,
        "            dscores *= scale\n",
        "",
        "The gradients of queries and keys lack 1/sqrt(D); Adam does not see the scale.",
    ),
    Bug(
        "attention-dk-untransposed",
        F.causal_attention,
        "dscores.swapaxes(-1, -2) @ q",
        "dscores @ q",
        "The scores are square, so the shape is right with and without the transposition.",
    ),
    Bug(
        "attention-dv-untransposed",
        F.causal_attention,
        "kept.swapaxes(-1, -2) @ dout",
        "kept @ dout",
        "The weights are square, so the shape is right with and without the transposition.",
    ),
    Bug(
        "attention-dq-dk-swapped",
        F.causal_attention,
        "dq, dk, dv = dqkv",
        "dk, dq, dv = dqkv",
        "The gradients of queries and keys have one shape and are exchanged.",
    ),
    Bug(
        "attention-dv-without-dropout",
        F.causal_attention,
        "kept.swapaxes(-1, -2) @ dout",
        "weights.swapaxes(-1, -2) @ dout",
        "The values were multiplied by the weights that dropout kept, not by all. Without "
        "dropout it is right.",
    ),
    Bug(
        "attention-dropout-not-in-backward",
        F.causal_attention,
        "            if p:\n                dscores *= scaled_mask[b, :, t, seen]\n",
        "",
        "The mask of the forward pass belongs into the gradient of the weights. Without dropout "
        "it is right.",
    ),
    Bug(
        "attention-qkv-order",
        F.causal_attention,
        "q, k, v = qkv.data",
        "k, q, v = qkv.data",
        "Queries and keys are exchanged, consistently: it trains as well as the right order, "
        "and makes nonsense of published weights.",
        also=(("dq, dk, dv = dqkv", "dk, dq, dv = dqkv"),),
    ),
    Bug(
        "attention-qkv-interleaved",
        F.causal_attention,
        "qkv.data.reshape(B, T, 3, n_head, D).transpose(2, 0, 3, 1, 4)",
        "qkv.data.reshape(B, T, n_head, 3, D).transpose(3, 0, 2, 1, 4)",
        "Channels taken as (head, q/k/v) where GPT-2 has (q/k/v, head). It trains as well, and "
        "makes nonsense of published weights.",
        also=(
            (
                "dqkv = np.zeros((B, T, 3, n_head, D), dtype=g.dtype)",
                "dqkv = np.zeros((B, T, n_head, 3, D), dtype=g.dtype)",
            ),
            ("dqkv.transpose(2, 0, 3, 1, 4)", "dqkv.transpose(3, 0, 2, 1, 4)"),
        ),
    ),
    Bug(
        "attention-heads-not-swapped-back",
        F.causal_attention,
        "np.matmul(kept, v[b, :, seen], out=_heads(out, n_head)[b, :, t])",
        "out[b, t] = (kept @ v[b, :, seen]).reshape(out[b, t].shape)",
        "(B, H, T, D) reshaped to (B, T, C) without exchanging H and T first mixes positions. "
        "With one head it is right.",
    ),
    Bug(
        "mask-off-by-one",
        F.causal_attention,
        "_hidden(t.stop - t.start)",
        "np.tri(t.stop - t.start, k=1) == 0.0",
        "Each position sees the next token, the one it shall predict. The loss goes down "
        "faster than ever.",
    ),
    Bug(
        "mask-forgotten",
        F.causal_attention,
        "        np.copyto(scores[..., t], -np.inf, where=_hidden(t.stop - t.start))\n",
        "",
        "Each position sees the whole sequence. The loss goes down, and generation fails.",
    ),
    Bug(
        "mask-after-softmax",
        F.causal_attention,
        "        np.copyto(scores[..., t], -np.inf, where=_hidden(t.stop - t.start))\n"
        "        weights = kept = _softmax_inplace(scores)\n",
        "        weights = kept = _softmax_inplace(scores)\n"
        "        np.copyto(weights[..., t], 0.0, where=_hidden(t.stop - t.start))\n",
        "The later weights are 0 but were in the sum: rows no longer sum to 1, and what is left "
        "tells of later tokens.",
    ),
    Bug(
        "mask-not-in-backward",
        F.causal_attention,
        "        np.copyto(scores[..., t], -np.inf, where=_hidden(t.stop - t.start))\n",
        "        unmasked = _softmax_inplace(scores.copy())\n"
        "        np.copyto(scores[..., t], -np.inf, where=_hidden(t.stop - t.start))\n",
        "The forward pass is causal, but the backward pass uses weights without the mask, so "
        "that gradients flow to tokens that were never seen.",
        also=(("saved.append((b, t, weights, kept))", "saved.append((b, t, unmasked, kept))"),),
    ),
    Bug(
        "cross-entropy-overflows",
        F._cross_entropy_inplace,
        "        p -= p.real.max(axis=-1, keepdims=True)  # softmax does not change, "
        "exp cannot overflow\n",
        "",
        "exp of raw logits overflows at 709 in float64, at 88 in float32. Fresh models have "
        "small logits.",
    ),
    Bug(
        "cross-entropy-mean-over-all",
        F.cross_entropy,
        "total = _cross_entropy_inplace(dz, columns)",
        "share = len(dz) / math.prod(shape[:-1])\n"
        "    total = _cross_entropy_inplace(dz, columns) * share",
        "Ignored targets count in the mean. Value and gradient agree, and without ignored "
        "targets it is right.",
        also=(("(g / len(dz))", "(g * share / len(dz))"),),
    ),
    Bug(
        "cross-entropy-backward-not-averaged",
        F.cross_entropy,
        "dz * (g / len(dz))",
        "dz * g",
        "The loss is a mean, its gradient is that of the sum: too large by B*T. Adam and "
        "clipping hide the factor.",
    ),
    Bug(
        "cross-entropy-forgets-cotangent",
        F.cross_entropy,
        "(g / len(dz))",
        "(1.0 / len(dz))",
        "The cotangent of a loss is 1, until the loss is scaled, or divided by the number of "
        "micro-batches.",
    ),
    Bug(
        "cross-entropy-target-forgotten",
        F._cross_entropy_inplace,
        "        p[at_target] -= 1.0\n",
        "",
        "p - onehot without the onehot: it pushes all logits down, and the sum of gradients over "
        "the vocabulary is no longer 0.",
    ),
    Bug(
        "cross-entropy-ignored-get-gradient",
        F.cross_entropy,
        "    total = _cross_entropy_inplace(dz, columns)\n",
        "    total = _cross_entropy_inplace(dz, columns)\n"
        "    everywhere = _softmax_inplace(logits.data.reshape(-1, shape[-1]).copy())\n"
        "    everywhere[rows] = dz\n",
        "Ignored targets count not in the loss, but in the gradient: padding is trained on.",
        also=(
            (
                "_scatter_rows(dz * (g / len(dz)), rows, shape)",
                "(everywhere * (g / len(dz))).reshape(shape)",
            ),
        ),
    ),
    Bug(
        "cross-entropy-in-bits",
        F._cross_entropy_inplace,
        "np.log(total[:, 0]) - of_target",
        "(np.log2(total[:, 0]) - of_target / math.log(2.0))",
        "The loss in bits, the gradient in nats: off by ln 2 = 0.69. Every curve looks as it "
        "should.",
    ),
)

# -- layers and model ----------------------------------------------------------------------------

_MODEL = (
    Bug(
        "dropout-in-eval",
        layers.Dropout.forward,
        "if not self.training:",
        "if False:",
        "Dropout stays on in evaluation: losses and samples are worse than the model is.",
    ),
    Bug(
        "attention-dropout-in-eval",
        model.CausalSelfAttention.forward,
        "drop.p if drop.training else 0.0",
        "drop.p",
        "The attention weights' dropout is no layer of its own here, so eval() has to be asked "
        "for; the other dropouts are off, which hides it.",
    ),
    Bug(
        "eval-of-the-top-only",
        module.Module.train,
        "for module in self.modules():\n        module.training = mode",
        "self.training = mode",
        "The flag does not reach the layers below, where the dropout is.",
    ),
    Bug(
        "validation-leaves-eval",
        inspect.unwrap(module.evaluating),
        "        for module in training:\n            module.training = True\n",
        "        pass\n",
        "After the first validation dropout is off for the rest of the training.",
    ),
    Bug(
        "layer-norm-eps-ignored",
        layers.LayerNorm.forward,
        "self.bias, self.eps)",
        "self.bias)",
        "The setting is stored and never used; it goes unnoticed as long as it is the default.",
    ),
    Bug(
        "mlp-without-gelu",
        model.MLP.forward,
        "F.gelu(self.c_fc(x))",
        "self.c_fc(x)",
        "Two linear layers in a row are one. All shapes and gradients are right.",
    ),
    Bug(
        "attention-residual-forgotten",
        model.TransformerBlock.forward,
        "x = x + self.attn",
        "x = self.attn",
        "The input is replaced instead of added to. All gradients are right, for another model.",
    ),
    Bug(
        "mlp-residual-forgotten",
        model.TransformerBlock.forward,
        "return x + self.mlp",
        "return self.mlp",
        "The input is replaced instead of added to. All gradients are right, for another model.",
    ),
    Bug(
        "norm-after-the-sum",
        model.TransformerBlock.forward,
        "x = x + self.attn(self.ln_1(x), past)\n    return x + self.mlp(self.ln_2(x))",
        "x = self.ln_1(x + self.attn(x, past))\n    return self.ln_2(x + self.mlp(x))",
        "The order of the first transformer and of GPT-1. GPT-2 normalises the input of each "
        "sublayer, and a small model trains either way.",
    ),
    Bug(
        "positions-forgotten",
        model.GPT2Model.hidden,
        "self.wte(ids) + self.wpe(positions)",
        "self.wte(ids)",
        "Without positions a text is little more than a bag of words; the loss goes down less, "
        "but it does.",
    ),
    Bug(
        "positions-shifted",
        model.GPT2Model.hidden,
        "self.wpe(positions)",
        "self.wpe(positions + 1)",
        "Counted from 1: row 0 is never trained, and only a sequence of full length fails.",
    ),
    Bug(
        "positions-wrap-around",
        model.GPT2Model.hidden,
        "if T > P:",
        "if T > 2 * P:",
        "Past n_positions the positions start anew: no error, and nonsense.",
        also=(("np.arange(T)", "np.arange(T) % P"),),
    ),
    Bug(
        "ln-f-forgotten",
        model.GPT2Model.hidden,
        "return self.ln_f(x)",
        "return x",
        "ln_f exists, is counted and saved, and is never applied.",
    ),
    Bug(
        "tie-without-head",
        model.GPT2Model.forward,
        "self.lm_head(self.hidden(input_ids, cache))",
        "F.linear(self.hidden(input_ids, cache), self.lm_head.weight.detach())",
        "The tied weight has two uses; the gradient of its use as head is lost. Same logits, "
        "same shapes.",
    ),
    Bug(
        "tie-without-embedding",
        model.GPT2Model.hidden,
        "self.wte(ids) +",
        "F.embedding(self.wte.weight.detach(), ids) +",
        "The tied weight has two uses; the gradient of its use as embedding is lost. The "
        "loss goes down all the same.",
    ),
    Bug(
        "tie-as-copy",
        model.GPT2Model.__init__,
        "    self.lm_head.weight = self.wte.weight\n"
        "    if init_weights:\n"
        "        self._init_weights()\n",
        "    if init_weights:\n"
        "        self._init_weights()\n"
        "    self.lm_head.weight.data[...] = self.wte.weight.data\n",
        "Equal at the start, two weights from the first step on.",
    ),
    Bug(
        "tie-as-view",
        model.GPT2Model.__init__,
        "self.lm_head.weight = self.wte.weight",
        "self.lm_head.weight.data = self.wte.weight.data",
        "Two parameters share one memory: the optimizer changes it twice a step, with two sets "
        "of moments.",
    ),
    Bug(
        "tie-counted-twice",
        module.Module.named_parameters,
        "if aliases or id(parameter) not in seen:",
        "if True:",
        'The tied weight is listed under both names, and GPT-2 "124M" has 163M parameters.',
    ),
    Bug(
        "tie-lost-on-load",
        module.Module.load_state_dict,
        "parameter.data[...] = arrays[name]",
        'where: Any = self\n        *path, last = name.split(".")\n'
        "        for part in path:\n"
        "            where = where[int(part)] if part.isdigit() else getattr(where, part)\n"
        "        setattr(where, last, Parameter(arrays[name].astype(parameter.dtype)))",
        "Loading makes new Parameters, and the head keeps the old one.",
    ),
    Bug(
        "load-without-copy",
        module.Module.load_state_dict,
        "parameter.data[...] = arrays[name]",
        "parameter.data = arrays[name]",
        "The model goes on training in the arrays that were to be kept: the best checkpoint "
        "is always the last.",
    ),
    Bug(
        "state-without-copy",
        module.Module.state_dict,
        "parameter.data.copy()",
        "parameter.data",
        "What was kept changes with every step: the best checkpoint is always the last.",
    ),
    Bug(
        "blocks-in-a-plain-list",
        module.Module.children,
        "several = isinstance(value, list | tuple)",
        "several = False",
        "Modules in a list are not found: the blocks are never trained, and embedding and head "
        "alone bring the loss down.",
    ),
    Bug(
        "residual-init-unscaled",
        model.GPT2Model._init_weights,
        'residual = name.endswith("c_proj.weight")',
        "residual = False",
        "The projections into the residual stream start as large as all others; it shows in "
        "deep models only.",
    ),
)

# -- optimizers ----------------------------------------------------------------------------------

_OPTIM = (
    Bug(
        "zero-grad-does-nothing",
        optim.Optimizer.zero_grad,
        "for parameter in self.parameters:\n        parameter.grad = None",
        "pass",
        "Gradients of all steps add up: a kind of momentum, with which the loss goes down too.",
    ),
    Bug(
        "optimizer-steps-twice",
        optim._distinct,
        "list({id(p): p for p in parameters}.values())",
        "list(parameters)",
        "A parameter that is listed twice is changed twice a step. Shows only with tied weights.",
    ),
    Bug(
        "adam-step-per-parameter",
        optim.AdamW.step,
        "self.step_count += 1",
        "self.step_count += len(self.parameters)",
        "The step is counted once per parameter, so that the bias correction is over too soon.",
    ),
    Bug(
        "adam-no-bias-correction",
        optim.AdamW._change,
        "r = math.sqrt(1.0 - beta2**self.step_count)",
        "r = 1.0",
        "The moments start at 0 and are too small at first; the first step is 3 times too "
        "large, and the loss goes down faster.",
        also=(("self.lr * r / (1.0 - beta1**self.step_count)", "self.lr"),),
    ),
    Bug(
        "adam-betas-swapped",
        optim.AdamW._change,
        "beta1, beta2 = self.betas",
        "beta2, beta1 = self.betas",
        "Each moment has the other's decay rate. The first step is the same.",
    ),
    Bug(
        "adam-eps-under-the-root",
        optim.AdamW._change,
        "np.sqrt(v[n], out=update)\n            update += r * self.eps",
        "np.sqrt(v[n] + self.eps, out=update)",
        "eps is added to the root of the second moment, not to the moment. It shows where "
        "gradients are below sqrt(eps) = 1e-4, as they are in large models.",
    ),
    Bug(
        "decay-of-biases",
        optim.AdamW._change,
        "self.weight_decay if parameters[0].ndim >= 2 else 0.0",
        "self.weight_decay",
        "Biases and gains are decayed too, as optimizers do by default. A gain of layer norm "
        "belongs near 1, not near 0.",
    ),
    Bug(
        "decay-coupled",
        optim.AdamW._change,
        "            m[n] *= beta1\n",
        "            g = g + decay * p\n            m[n] *= beta1\n",
        "Decay added to the gradient is normalised away by Adam: that is L2 regularisation, and "
        "was the mistake that AdamW is named after.",
        also=(("            if decay:\n                p *= 1.0 - self.lr * decay\n", ""),),
    ),
    Bug(
        "decay-without-lr",
        optim.AdamW._change,
        "1.0 - self.lr * decay",
        "1.0 - decay",
        "The decay does not follow the learning rate: at lr = 1e-3 it takes away 1,000 times as "
        "much.",
    ),
    Bug(
        "resume-without-step-count",
        optim.AdamW.load_state_dict,
        "    self.step_count = step_count\n",
        "",
        "A resumed run corrects the bias of moments that have none any more: a jump in the loss "
        "that looks like bad luck.",
    ),
    Bug(
        "resume-without-moments",
        optim.AdamW.load_state_dict,
        "moment[...] = array",
        "moment[...] = 0.0",
        "A resumed run has its weights and starts its moments anew.",
    ),
    Bug(
        "sgd-damped-momentum",
        optim.SGD.step,
        "buffer += parameter.grad",
        "buffer += (1.0 - self.momentum) * parameter.grad",
        "A running mean, where momentum is a running sum: steps are 10 times smaller at 0.9. "
        "Without momentum it is right.",
    ),
    Bug(
        "clip-each-tensor",
        optim.clip_grad_norm,
        "    factor = max_norm / (norm + 1e-6)\n"
        "    if factor < 1.0:\n"
        "        for g in gradients:\n"
        "            g *= factor\n",
        "    for g in gradients:\n"
        "        g *= min(1.0, max_norm / (float(np.linalg.norm(g)) + 1e-6))\n",
        "Clipped one by one, the gradients have another direction together, and a norm above "
        "the limit.",
    ),
    Bug(
        "clip-also-enlarges",
        optim.clip_grad_norm,
        "if factor < 1.0:",
        "if norm > 0.0:",
        "Small gradients are scaled up to the limit: every step is as long as the longest.",
    ),
    Bug(
        "clip-sums-norms",
        optim.clip_grad_norm,
        "math.sqrt(math.fsum(float(np.vdot(g[n], g[n])) for g in flat for n in blocks(g)))",
        "math.fsum(math.sqrt(float(np.vdot(g, g))) for g in flat)",
        "The joint norm is the root of the sum of squares, not the sum of norms. With one "
        "tensor they are the same.",
    ),
    Bug(
        "schedule-starts-at-0",
        optim.cosine_schedule,
        "max_lr * (step + 1) / warmup_steps",
        "max_lr * step / warmup_steps",
        "The first step has a learning rate of 0 and changes nothing.",
    ),
    Bug(
        "schedule-jumps",
        optim.cosine_schedule,
        "progress = (step - warmup_steps) / (total_steps - warmup_steps)",
        "progress = step / total_steps",
        "The cosine runs from step 0, so that the learning rate falls at once where the warm-up "
        "ends. Without warm-up it is right.",
    ),
    Bug(
        "schedule-rises-again",
        optim.cosine_schedule,
        "    if step >= total_steps:\n        return min_lr\n",
        "",
        "Past its end a cosine goes up again.",
    ),
)

# -- data and generation -------------------------------------------------------------------------

_TEXT = (
    Bug(
        "targets-not-shifted",
        data.windows,
        "return chunk[:, :-1], chunk[:, 1:]",
        "return chunk[:, :-1], chunk[:, :-1]",
        "The model learns to repeat its input. No loss goes down faster.",
    ),
    Bug(
        "validation-seen-in-training",
        data.split,
        "return tokens[:cut], tokens[cut:]",
        "return tokens, tokens[cut:]",
        "The validation text is part of the training text: its loss says nothing.",
    ),
    Bug(
        "generate-from-row-0",
        sampling.Sampling.draw,
        "cumulative <= u",
        "cumulative[:1] <= u",
        "Every row of the batch is drawn from the first row's probabilities. Tests generate one "
        "row.",
    ),
    Bug(
        "temperature-0-divides",
        sampling.Sampling.probabilities,
        "if self.temperature == 0.0:",
        "if False:",
        "0/0 is NaN, no comparison with NaN holds, and so token 0 is drawn.",
    ),
    Bug(
        "top-k-past-the-vocabulary",
        sampling.Sampling.probabilities,
        "top_k, top_p = min(self.top_k or V, V), self.top_p or 1.0",
        "top_k, top_p = self.top_k or V, self.top_p or 1.0",
        "A default top_k of 50 or 200 is more than a vocabulary of characters has.",
        also=(("if top_k < V", "if top_k != V"),),
    ),
    Bug(
        "top-p-one-too-few",
        sampling._truncate,
        "before = ranked.cumsum() - ranked",
        "before = ranked.cumsum()",
        "The token that reaches top_p belongs to the nucleus; without it nothing may be left.",
    ),
    Bug(
        "generate-previous-position",
        generation.prefill,
        "lengths - 1]",
        "lengths - 2]",
        "Predicts the first new token from the last token of the prompt but one. A prompt of one "
        "token is right.",
    ),
    Bug(
        "generate-from-the-padding",
        generation.prefill,
        "x[np.arange(len(texts)), lengths - 1]",
        "x[:, -1]",
        "In a batch of prompts of different lengths, all but the longest go on from what fills "
        "them up.",
    ),
    Bug(
        "padding-stays-in-the-cache",
        generation.prefill,
        "    cache.truncate(lengths)\n",
        "",
        "What fills up the shorter prompts of a batch is read as part of them: their first new "
        "token is right, those after it follow another text.",
    ),
    Bug(
        "sliding-window-keeps-the-oldest",
        generation._stream,
        "text[-max(P // 2, 1) :]",
        "text[: max(P // 2, 1)]",
        "Past n_positions the model goes on from the start of the text. Short texts are right.",
    ),
    Bug(
        "cache-positions-start-anew",
        model.GPT2Model.hidden,
        "pasts, positions = cache.reserve(B, T)",
        "pasts, _ = cache.reserve(B, T)",
        "Each new token is embedded at position 0. The text still looks like one.",
    ),
    Bug(
        "cache-overwritten",
        model.GPT2Model.hidden,
        "cache.advance(T)",
        "cache.advance(0 if cache.lengths.any() else T)",
        "Each new token takes the place of the one before it: the model sees the prompt and a "
        "single token more. The first two new tokens are right.",
    ),
    Bug(
        "cache-mask-of-a-start",
        F.cached_attention,
        "> past.positions[b, t, None]",
        "> np.arange(T)[None, t, None]",
        "The mask of a part is that of the start of a text, so that its tokens do not see the past "
        "they should. Whole prompts and single tokens are right.",
    ),
    Bug(
        "cache-without-mask",
        F.cached_attention,
        "if T > 1 or past.start is None:",
        "if past.start is None:",
        "Tokens that are read together see each other in both directions: generation differs from "
        "the model that was trained.",
    ),
)

BUGS = {bug.name: bug for bug in (*_ENGINE, *_OPS, *_FUSED, *_MODEL, *_OPTIM, *_TEXT)}
