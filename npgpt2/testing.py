"""Tools for people who test GPT-2: strategies for small models and token ids, and specs of the ops.

This module needs hypothesis (`pip install 'npgpt2[testing]'`). Importing it adds the ops of
`npgpt2.functional` to `autograd.testing.OPS`. The reference of each op is its twin in
`npgpt2.composed`.

>>> from hypothesis import given
>>> from npgpt2 import GPT2Model
>>> @given(st.data())
... def test_logits_have_an_entry_for_every_token(data):
...     config = data.draw(configs())
...     ids = data.draw(token_batches(config))
...     assert GPT2Model(config)(ids).shape == (*ids.shape, config.vocab_size)
>>> test_logits_have_an_entry_for_every_token()
"""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from autograd.tensor import Tensor
from autograd.testing.op_specs import register
from autograd.testing.properties import Call, OpSpec, Refusal, Sizes, one_operand
from autograd.testing.strategies import Array, DrawFn, SearchStrategy, hnp, shapes, st
from npgpt2 import composed, functional
from npgpt2.config import GPT2Config

# -- models and their input ----------------------------------------------------------------------


@st.composite
def configs(
    draw: DrawFn, max_layers: int = 3, max_heads: int = 4, dropout: bool = False
) -> GPT2Config:
    """Draw configurations of small models: a forward and backward pass takes milliseconds.

    Parameters
    ----------
    max_layers, max_heads
        Largest n_layer and n_head.
    dropout
        Whether dropout probabilities may be above 0.
    """
    n_head = draw(st.integers(1, max_heads))
    p = st.sampled_from([0.0, 0.1, 0.5]) if dropout else st.just(0.0)
    return GPT2Config(
        vocab_size=draw(st.integers(1, 20)),
        n_positions=draw(st.integers(1, 8)),
        n_embd=n_head * draw(st.integers(1, 5)),
        n_layer=draw(st.integers(1, max_layers)),
        n_head=n_head,
        n_inner=draw(st.none() | st.integers(1, 16)),  # type: ignore[arg-type]
        resid_pdrop=draw(p),
        embd_pdrop=draw(p),
        attn_pdrop=draw(p),
    )


@st.composite
def token_batches(
    draw: DrawFn, config: GPT2Config, max_batch: int = 3, ignored: bool = False
) -> Array:
    """Draw (B, T) ids for a model. With `ignored`, some ids may be -100, as in targets; not all."""
    B, T = draw(st.integers(1, max_batch)), draw(st.integers(1, config.n_positions))
    return draw(_ids((B, T), config.vocab_size, ignored))


@st.composite
def _ids(draw: DrawFn, shape: tuple[int, ...], limit: int, ignored: bool = False) -> Array:
    dtype = draw(st.sampled_from(["uint16", "int32", "int64"]))
    ids = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, limit - 1), fill=st.nothing()))
    if not ignored:
        return ids.astype(dtype)
    marks = draw(hnp.arrays(np.bool_, shape, fill=st.nothing()))
    marks.flat[draw(st.integers(0, marks.size - 1))] = False  # at least one is not ignored
    return np.where(marks, -100, ids)


# -- the fused ops -------------------------------------------------------------------------------


@st.composite
def _linears(draw: DrawFn) -> Sizes:
    leading, (n_in, n_out) = draw(shapes(max_dims=2)), draw(_sizes(2))
    bias = [(n_out,)] if draw(st.booleans()) else []
    return ((*leading, n_in), (n_out, n_in), *bias), {}


@st.composite
def _embeddings(draw: DrawFn) -> Sizes:
    V, C = draw(_sizes(2))
    return ((V, C),), {"ids": draw(_ids(draw(shapes(max_dims=2)), V))}


@st.composite
def _layer_norms(draw: DrawFn) -> Sizes:
    x = draw(shapes(min_dims=1))
    # eps is near the variance of the entries. If x is constant, a small eps would make the
    # derivatives too large for difference quotients.
    eps = draw(st.sampled_from([0.25, 1.0]))
    channels = max(x[-1], 1)
    return ((*x[:-1], channels), (channels,), (channels,)), {"eps": eps}


@st.composite
def _attentions(draw: DrawFn) -> Sizes:
    B, T, H, D = draw(_sizes(4))
    return ((B, T, 3 * H * D),), {"n_head": H}


@st.composite
def _cross_entropies(draw: DrawFn) -> Sizes:
    leading, V = draw(shapes(max_dims=2, min_side=1)), draw(st.integers(1, 4))
    return ((*leading, V),), {"targets": draw(_ids(leading, V, ignored=True))}


@st.composite
def _linear_cross_entropies(draw: DrawFn) -> Sizes:
    (logits,), keywords = draw(_cross_entropies())
    C = draw(st.integers(1, 3))
    return ((*logits[:-1], C), (logits[-1], C)), keywords


def _sizes(n: int) -> SearchStrategy[tuple[int, ...]]:
    return st.tuples(*[st.integers(1, 3)] * n)


def _refusal(operand: Array, error: type[Exception], match: str, **keywords: Any) -> Refusal:
    return Refusal(Call((operand,), keywords), error, match)


def _dropout(F: ModuleType, x: Tensor, p: float, seed: int) -> Tensor:
    out: Tensor = F.dropout(x, p, np.random.default_rng(seed))
    return out


def _attention_with_dropout(F: ModuleType, qkv: Tensor, n_head: int, seed: int) -> Tensor:
    out: Tensor = F.causal_attention(qkv, n_head, 0.5, np.random.default_rng(seed))
    return out


@st.composite
def _attentions_with_dropout(draw: DrawFn) -> Sizes:
    given_shapes, keywords = draw(_attentions())
    return given_shapes, keywords | {"seed": draw(st.integers(0, 999))}


_ONES, _QKV = np.ones((2, 3)), np.ones((1, 2, 6))
_SPECS: dict[str, tuple[Any, SearchStrategy[Sizes], tuple[Refusal, ...]]] = {
    # name: (the op of a module, operands, refusals)
    "linear": (
        lambda F, *a: F.linear(*a),
        _linears(),
        (Refusal(Call((_ONES, np.ones((2, 2))), {}), ValueError, r"\(2, 3\) .* \(2, 2\)"),),
    ),
    "embedding": (
        lambda F, w, ids: F.embedding(w, ids),
        _embeddings(),
        (
            _refusal(_ONES, IndexError, r"ids\[0\] = -1 .*\[0, 2\)", ids=[-1]),
            _refusal(_ONES, IndexError, r"ids\[1\] = 2 .*\[0, 2\)", ids=[0, 2]),
            _refusal(_ONES, TypeError, "integers, not float64", ids=[0.0]),
        ),
    ),
    "layer_norm": (
        lambda F, x, w, b, eps: F.layer_norm(x, w, b, eps),
        _layer_norms(),
        (Refusal(Call((_ONES,) * 3, {"eps": 1.0}), ValueError, r"weight \(2, 3\)"),),
    ),
    "gelu": (lambda F, x: F.gelu(x), one_operand(), ()),
    "softmax": (lambda F, x: F.softmax(x), one_operand(min_dims=1, min_side=1), ()),
    "dropout": (
        _dropout,
        one_operand(p=st.sampled_from([0.25, 0.5]), seed=st.integers(0, 999)),
        (_refusal(_ONES, ValueError, r"p=1.0 must lie in \[0, 1\)", p=1.0, seed=0),),
    ),
    "causal_attention": (
        lambda F, qkv, n_head: F.causal_attention(qkv, n_head),
        _attentions(),
        (
            _refusal(_QKV, ValueError, r"\(1, 2, 6\).*multiple of n_head=3", n_head=3),
            _refusal(_ONES, ValueError, r"\(2, 3\) must be \(B, T, 3C\)", n_head=1),
        ),
    ),
    "causal_attention with dropout": (_attention_with_dropout, _attentions_with_dropout(), ()),
    "cross_entropy": (
        lambda F, z, targets: F.cross_entropy(z, targets),
        _cross_entropies(),
        (
            _refusal(_ONES, IndexError, r"targets\[1\] = 3 .*\[0, 3\)", targets=[0, 3]),
            _refusal(_ONES, ValueError, "all 2 targets are ignored", targets=[-100, -100]),
            _refusal(_ONES, ValueError, r"need targets of shape \(2,\)", targets=[0]),
        ),
    ),
    "linear_cross_entropy": (
        lambda F, x, w, targets: F.linear_cross_entropy(x, w, targets),
        _linear_cross_entropies(),
        (
            Refusal(Call((_ONES, _ONES), {"targets": [0, 2]}), IndexError, r"targets\[1\] = 2"),
            Refusal(Call((_ONES, _ONES), {"targets": [-100] * 2}), ValueError, "all 2 targets"),
            Refusal(
                Call((_ONES, np.ones((4, 2))), {"targets": [0, 0]}),
                ValueError,
                r"\(2, 3\) .*\(4, 2\)",
            ),
        ),
    ),
}


def _of_arrays(op: Any) -> Any:
    """Return the twin of an op in `composed`, as a function of arrays."""

    def reference(*operands: Array, **keywords: Any) -> Array:
        value: Tensor = op(composed, *map(Tensor, operands), **keywords)
        return value.data

    return reference


FUSED = {
    name: register(
        OpSpec(name, partial(op, functional), _of_arrays(op), operands, refusals=refusals)
    )
    for name, (op, operands, refusals) in _SPECS.items()
}
