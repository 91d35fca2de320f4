"""Transformer block: x = x + attn(ln_1(x)), and then out = x + mlp(ln_2(x)).

x, out and g are (B, T, C). The backward passes of the four parts are given: each takes the gradient
of its part's output, and returns that of its input. (What their own weights get, each sees to
when it is called; so call each once.)

With names for what lies between: r = x + attn(ln_1(x)), out = r + mlp(ln_2(r)). Backwards, the last
first:

1. out = r + mlp(ln_2(r)) is a residual connection (see there) of two functions in a row, whose
   backward passes are called in the opposite order: through mlp first, then through ln_2.

       dr = g + ln_2_backward(mlp_backward(g))

2. r = x + attn(ln_1(x)) is another, and the gradient that arrives at its end is dr, not g:

       dx = dr + ln_1_backward(attn_backward(dr))

3. Put together, dx is a sum over four paths: straight through; through the MLP; through attention;
   through both. 2**n of them for n residual connections, which two lines walk in one go.

>>> import numpy as np
>>> from npgpt2.learn.exercises.exercise import slope
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

from autograd import Tensor, record
from npgpt2.learn.exercises.exercise import (
    Answer,
    Arguments,
    Array,
    Exercise,
    Mistake,
    Sizes,
    in_gpt2,
    part,
    replaced,
    some_backward,
)
from npgpt2.model import TransformerBlock

Function = Callable[[Array], Array]


def forward(x: Array, ln_1: Function, attn: Function, ln_2: Function, mlp: Function) -> Any:
    """(B, T, C) -> (B, T, C)."""
    x = x + attn(ln_1(x))
    return x + mlp(ln_2(x))


def answer(
    g: Array,
    ln_1_backward: Function,
    attn_backward: Function,
    ln_2_backward: Function,
    mlp_backward: Function,
) -> tuple[Array, ...]:
    """Return (dx,)."""
    dr = g + ln_2_backward(mlp_backward(g))
    return (dr + ln_1_backward(attn_backward(dr)),)


def _terms(
    g: Array, ln_1: Function, attn: Function, ln_2: Function, mlp: Function
) -> Mapping[str, Mapping[str, Array]]:
    by_mlp = ln_2(mlp(g))
    return {
        "dx": {
            "of the path straight through": g,
            "of the path through the MLP alone": by_mlp,
            "of the path through attention alone": ln_1(attn(g)),
            "of the path through MLP and attention": ln_1(attn(by_mlp)),
        }
    }


def _draw(rng: np.random.Generator, n: Sizes) -> Arguments:
    g = rng.standard_normal((n.B, n.T, n.C))
    return g, *(some_backward(rng, g.shape) for _ in range(4))


def _end_to_end(function: Answer) -> str:
    def block(self: TransformerBlock, x: Tensor, past: None = None) -> Tensor:
        n1, ln_1_backward = part(self.ln_1, x.data)
        a, attn_backward = part(self.attn, n1)
        n2, ln_2_backward = part(self.ln_2, x.data + a)
        m, mlp_backward = part(self.mlp, n2)

        def vjp(g: Array) -> tuple[Array, ...]:
            backwards = (ln_1_backward, attn_backward, ln_2_backward, mlp_backward)
            gradients: tuple[Array, ...] = function(g, *backwards)
            return gradients

        return record(x.data + a + m, (x,), vjp)

    with replaced(TransformerBlock, "forward", block):
        return in_gpt2()


def _of(change: Any) -> Answer:
    return lambda g, ln_1, attn, ln_2, mlp: {"dx": change(g, ln_1, attn, ln_2, mlp)}


def _two(dr: Array, ln_1: Function, attn: Function) -> Array:
    """The half of attention, which comes last."""
    return dr + ln_1(attn(dr))


_MISTAKES = (
    Mistake(
        "attention-residual-forgotten",
        "The residual path around attention is forgotten: dx = dr + ln_1_backward(...).",
        _of(lambda g, ln_1, attn, ln_2, mlp: ln_1(attn(g + ln_2(mlp(g))))),
    ),
    Mistake(
        "mlp-residual-forgotten",
        "The residual path around the MLP is forgotten: dr = g + ln_2_backward(...).",
        _of(lambda g, ln_1, attn, ln_2, mlp: _two(ln_2(mlp(g)), ln_1, attn)),
    ),
    Mistake(
        "residuals-forgotten",
        "Both residual paths are forgotten.",
        _of(lambda g, ln_1, attn, ln_2, mlp: ln_1(attn(ln_2(mlp(g))))),
    ),
    Mistake(
        "attention-forgotten",
        "The branch of attention is forgotten: dx = dr + ln_1_backward(attn_backward(dr)).",
        _of(lambda g, ln_1, attn, ln_2, mlp: g + ln_2(mlp(g))),
    ),
    Mistake(
        "mlp-forgotten",
        "The branch of the MLP is forgotten: dr = g + ln_2_backward(mlp_backward(g)).",
        _of(lambda g, ln_1, attn, ln_2, mlp: _two(g, ln_1, attn)),
    ),
    Mistake(
        "both-branches-forgotten",
        "Both branches are forgotten: g alone came through.",
        _of(lambda g, ln_1, attn, ln_2, mlp: g.copy()),
    ),
    Mistake(
        "parallel",
        "Attention was given g; what arrives at its output is dr, the gradient of x + attn(...).",
        _of(lambda g, ln_1, attn, ln_2, mlp: g + ln_2(mlp(g)) + ln_1(attn(g))),
    ),
    Mistake(
        "g-in-the-sum",
        "The last sum has g where dr should be: dx = dr + ln_1_backward(attn_backward(dr)).",
        _of(lambda g, ln_1, attn, ln_2, mlp: g + ln_1(attn(g + ln_2(mlp(g))))),
    ),
    Mistake(
        "g-twice",
        "g is added again at the end: dr has it already.",
        _of(lambda g, ln_1, attn, ln_2, mlp: g + _two(g + ln_2(mlp(g)), ln_1, attn)),
    ),
    Mistake(
        "forward-order",
        "The halves are in the order of the forward pass: backwards the MLP comes first.",
        _of(lambda g, ln_1, attn, ln_2, mlp: _two(_two(g, ln_1, attn), ln_2, mlp)),
    ),
    Mistake(
        "norm-first",
        "Within the branches the layer norm comes first, as in the forward pass; backwards it "
        "comes last: ln_2_backward(mlp_backward(g)).",
        _of(lambda g, ln_1, attn, ln_2, mlp: _two(_two(g, mlp, ln_2), attn, ln_1)),
    ),
    Mistake(
        "norm-first-in-mlp",
        "In the branch of the MLP the layer norm comes first; backwards it comes last: "
        "ln_2_backward(mlp_backward(g)).",
        _of(lambda g, ln_1, attn, ln_2, mlp: _two(_two(g, mlp, ln_2), ln_1, attn)),
    ),
    Mistake(
        "norm-first-in-attention",
        "In the branch of attention the layer norm comes first; backwards it comes last: "
        "ln_1_backward(attn_backward(dr)).",
        _of(lambda g, ln_1, attn, ln_2, mlp: _two(_two(g, ln_2, mlp), attn, ln_1)),
    ),
    Mistake(
        "forward-order-everywhere",
        "Everything is in the order of the forward pass; backwards it is the opposite one.",
        _of(lambda g, ln_1, attn, ln_2, mlp: _two(_two(g, attn, ln_1), mlp, ln_2)),
    ),
    Mistake(
        "norms-exchanged",
        "ln_1 and ln_2 are exchanged.",
        _of(lambda g, ln_1, attn, ln_2, mlp: _two(_two(g, ln_1, mlp), ln_2, attn)),
    ),
    Mistake(
        "branches-exchanged",
        "Attention and MLP are exchanged.",
        _of(lambda g, ln_1, attn, ln_2, mlp: _two(_two(g, ln_2, attn), ln_1, mlp)),
    ),
    Mistake(
        "norms-forgotten",
        "The layer norms are forgotten.",
        _of(lambda g, ln_1, attn, ln_2, mlp: _two(g + mlp(g), lambda a: a, attn)),
    ),
    Mistake(
        "ln-1-forgotten",
        "ln_1 is forgotten: attention read ln_1(x).",
        _of(lambda g, ln_1, attn, ln_2, mlp: _two(g + ln_2(mlp(g)), lambda a: a, attn)),
    ),
    Mistake(
        "ln-2-forgotten",
        "ln_2 is forgotten: the MLP read ln_2(r).",
        _of(lambda g, ln_1, attn, ln_2, mlp: _two(g + mlp(g), ln_1, attn)),
    ),
    Mistake(
        "norm-of-the-sum",
        "The layer norms are outside of the sums, as after them in GPT-1; in GPT-2 the residual "
        "path goes around them.",
        _of(lambda g, ln_1, attn, ln_2, mlp: (lambda r: ln_1(r + attn(r)))(ln_2(g + mlp(g)))),
    ),
    Mistake(
        "ln-1-of-the-sum",
        "ln_1 is outside of the sum; the residual path goes around it.",
        _of(lambda g, ln_1, attn, ln_2, mlp: (lambda r: ln_1(r + attn(r)))(g + ln_2(mlp(g)))),
    ),
    Mistake(
        "ln-2-of-the-sum",
        "ln_2 is outside of the sum; the residual path goes around it.",
        _of(lambda g, ln_1, attn, ln_2, mlp: _two(ln_2(g + mlp(g)), ln_1, attn)),
    ),
)

EXERCISE = Exercise(
    name="block",
    statement="The gradient of a whole transformer block, from the backward passes of its parts.",
    forward=forward,
    function="block_backward",
    arguments={
        "g": "(B, T, C)",
        "ln_1_backward": "function: gradient of ln_1's output -> of its input, (B, T, C) both",
        "attn_backward": "likewise",
        "ln_2_backward": "likewise",
        "mlp_backward": "likewise",
    },
    gradients={"dx": "(B, T, C)"},
    draw=_draw,
    reference=answer,
    mistakes=_MISTAKES,
    hints=(
        "Give r = x + attn(ln_1(x)) its name; the block is two residual connections in a row. "
        "Which one comes first backwards?",
        "dr = g + (the branch of the MLP, backwards). Then dx is made of dr as dr is of g. Two "
        "functions in a row are gone through in the opposite order.",
        "dr = g + ln_2_backward(mlp_backward(g)); dx = dr + ln_1_backward(attn_backward(dr)).",
    ),
    end_to_end=_end_to_end,
    terms=_terms,
)
