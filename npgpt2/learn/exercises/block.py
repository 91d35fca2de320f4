"""Transformer block: x = x + attn(ln_1(x)), and then out = x + mlp(ln_2(x)).

x, out and g = dL/dout are (B, T, C). You are given the backward passes of the four parts. Each
takes the gradient of its part's output and returns the gradient of its part's input. This exercise
leaves out the gradients of the weights in the parts.

Give the sum in the middle a name: r = x + attn(ln_1(x)), so that out = r + mlp(ln_2(r)). The
backward pass begins with the last line:

1. out = r + mlp(ln_2(r)) is a residual connection (see that exercise). Its branch is two functions
   in a row, and their backward passes run in the opposite order: first through mlp, then through
   ln_2.

       dr = g + ln_2_backward(mlp_backward(g))

2. r = x + attn(ln_1(x)) is a residual connection too. The gradient that arrives at its end is dr,
   not g:

       dx = dr + ln_1_backward(attn_backward(dr))

3. Put the second line into the first: dx is a sum over four paths. One goes straight through, one
   through the MLP, one through attention, and one through both. n residual connections have 2**n
   paths, and n lines of code walk all of them.

>>> import numpy as np
>>> from npgpt2.learn.judge.exercise import slope
>>> rng = np.random.default_rng(0)
>>> ln_1, attn, ln_2, mlp = rng.standard_normal((4, 3, 3))  # four linear parts, x @ weight.T
>>> parts = [lambda x, w=w: x @ w.T for w in (ln_1, attn, ln_2, mlp)]
>>> x, g = rng.standard_normal((2, 1, 2, 3))
>>> dr = g + (g @ mlp) @ ln_2
>>> dx = dr + (dr @ attn) @ ln_1
>>> np.allclose(dx, slope(lambda x: forward(x, *parts), x, g))
True
>>> np.allclose(dx, g + g @ mlp @ ln_2 + g @ attn @ ln_1 + g @ mlp @ ln_2 @ attn @ ln_1)
True
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from autograd import Array, Tensor, record
from npgpt2.learn.judge.exercise import Answer, Arguments, Sizes, read_mistakes, some_backward
from npgpt2.learn.judge.in_model import in_gpt2, part, replaced
from npgpt2.model import TransformerBlock

Function = Callable[[Array], Array]

STATEMENT = "The gradient of a whole transformer block, from the backward passes of its parts."
ARGUMENTS = {
    "g": "(B, T, C)",
    "ln_1_backward": "function: gradient of ln_1's output -> gradient of its input, both (B, T, C)",
    "attn_backward": "the same for attn",
    "ln_2_backward": "the same for ln_2",
    "mlp_backward": "the same for mlp",
}
GRADIENTS = {"dx": "(B, T, C)"}
HINTS = (
    "Give r = x + attn(ln_1(x)) a name: the block is two residual connections in a row. Which of "
    "them comes first in the backward pass?",
    "dr = g + (the branch of the MLP, backwards). dx follows from dr in the same way as dr follows "
    "from g. The backward passes of two functions in a row run in the opposite order.",
    "dr = g + ln_2_backward(mlp_backward(g)); dx = dr + ln_1_backward(attn_backward(dr)).",
)


def forward(x: Array, ln_1: Function, attn: Function, ln_2: Function, mlp: Function) -> Any:
    """(B, T, C) -> (B, T, C)."""
    x = x + attn(ln_1(x))
    return x + mlp(ln_2(x))


def solution(
    g: Array,
    ln_1_backward: Function,
    attn_backward: Function,
    ln_2_backward: Function,
    mlp_backward: Function,
) -> Any:
    """Return dx."""
    dr = g + ln_2_backward(mlp_backward(g))
    dx = dr + ln_1_backward(attn_backward(dr))
    return dx


def reference(*arguments: Any) -> tuple[Array, ...]:
    """Return (dx,). The parts are given, so the library has no op for this."""
    return (solution(*arguments),)


def terms(
    g: Array, ln_1: Function, attn: Function, ln_2: Function, mlp: Function
) -> Mapping[str, Mapping[str, Array]]:
    """Return one term for each path."""
    by_mlp = ln_2(mlp(g))
    return {
        "dx": {
            "the path straight through": g,
            "the path through the MLP alone": by_mlp,
            "the path through attention alone": ln_1(attn(g)),
            "the path through MLP and attention": ln_1(attn(by_mlp)),
        }
    }


def draw(rng: np.random.Generator, n: Sizes) -> Arguments:
    """Return g, and four backward passes."""
    g = rng.standard_normal((n.B, n.T, n.C))
    return g, *(some_backward(rng, g.shape) for _ in range(4))


def end_to_end(answer: Answer) -> str:
    """Check a GPT-2 whose blocks have the answer as their backward pass."""

    def block(self: TransformerBlock, x: Tensor, past: None = None) -> Tensor:
        n1, ln_1_backward = part(self.ln_1, x.data)
        a, attn_backward = part(self.attn, n1.data)
        n2, ln_2_backward = part(self.ln_2, x.data + a.data)
        m, mlp_backward = part(self.mlp, n2.data)

        def vjp(g: Array) -> tuple[Array, ...]:
            dn2 = mlp_backward(g)
            dr = g + ln_2_backward(dn2)
            for out, dout in ((m, g), (n2, dn2), (a, dr), (n1, attn_backward(dr))):
                out.backward(dout, retain_graph=True)  # for the parameters in it
            return answer(g, ln_1_backward, attn_backward, ln_2_backward, mlp_backward)

        return record(x.data + a.data + m.data, (x,), vjp)

    with replaced(TransformerBlock, "forward", block):
        return in_gpt2()


MISTAKES = read_mistakes(
    """
attention-residual-forgotten
+ dx = ln_1_backward(attn_backward(dr))
The residual path around attention is missing: dx = dr + ln_1_backward(...).

mlp-residual-forgotten
+ dr = ln_2_backward(mlp_backward(g))
The residual path around the MLP is missing: dr = g + ln_2_backward(...).

residuals-forgotten
+ dr = ln_2_backward(mlp_backward(g)); dx = ln_1_backward(attn_backward(dr))
Both residual paths are missing.

attention-forgotten
+ dx = dr
The branch of attention is missing: dx = dr + ln_1_backward(attn_backward(dr)).

mlp-forgotten
+ dr = g
The branch of the MLP is missing: dr = g + ln_2_backward(mlp_backward(g)).

both-branches-forgotten
+ dx = g.copy()
Both branches are missing: dx is just g.

parallel
+ dx = dr + ln_1_backward(attn_backward(g))
attn_backward was given g. The gradient that arrives at the output of attention is dr, the gradient
of x + attn(...).

g-in-the-sum
+ dx = g + ln_1_backward(attn_backward(dr))
The last sum has g in place of dr: dx = dr + ln_1_backward(attn_backward(dr)).

g-twice
+ dx = g + dr + ln_1_backward(attn_backward(dr))
g is added again at the end, but dr already contains it.

forward-order
+ dr = g + ln_1_backward(attn_backward(g)); dx = dr + ln_2_backward(mlp_backward(dr))
The two halves run in the order of the forward pass. In the backward pass the MLP comes first.

norm-first
+ dr = g + mlp_backward(ln_2_backward(g)); dx = dr + attn_backward(ln_1_backward(dr))
In both branches the layer norm comes first, as in the forward pass. In the backward pass it comes
last: ln_2_backward(mlp_backward(g)).

norm-first-in-mlp
+ dr = g + mlp_backward(ln_2_backward(g))
In the branch of the MLP the layer norm comes first. In the backward pass it comes last:
ln_2_backward(mlp_backward(g)).

norm-first-in-attention
+ dx = dr + attn_backward(ln_1_backward(dr))
In the branch of attention the layer norm comes first. In the backward pass it comes last:
ln_1_backward(attn_backward(dr)).

forward-order-everywhere
+ dr = g + attn_backward(ln_1_backward(g)); dx = dr + mlp_backward(ln_2_backward(dr))
Everything runs in the order of the forward pass. The backward pass has the opposite order.

norms-exchanged
+ dr = g + ln_1_backward(mlp_backward(g)); dx = dr + ln_2_backward(attn_backward(dr))
ln_1 and ln_2 are exchanged.

branches-exchanged
+ dr = g + ln_2_backward(attn_backward(g)); dx = dr + ln_1_backward(mlp_backward(dr))
Attention and MLP are exchanged.

norms-forgotten
+ dr = g + mlp_backward(g); dx = dr + attn_backward(dr)
The layer norms are missing.

ln-1-forgotten
+ dx = dr + attn_backward(dr)
ln_1 is missing: attention reads ln_1(x).

ln-2-forgotten
+ dr = g + mlp_backward(g)
ln_2 is missing: the MLP reads ln_2(r).

norm-of-the-sum
+ dr = ln_2_backward(g + mlp_backward(g)); dx = ln_1_backward(dr + attn_backward(dr))
The layer norms are outside of the sums, where GPT-1 has them. In GPT-2 the residual path goes
around them.

ln-1-of-the-sum
+ dx = ln_1_backward(dr + attn_backward(dr))
ln_1 is outside of the sum. The residual path goes around it.

ln-2-of-the-sum
+ dr = ln_2_backward(g + mlp_backward(g))
ln_2 is outside of the sum. The residual path goes around it.
"""
)
