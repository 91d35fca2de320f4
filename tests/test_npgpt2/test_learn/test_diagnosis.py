"""How often the judge names a mistake, measured on answers written without sight of it."""

from __future__ import annotations

import numpy as np
import pytest

from autograd import Tensor
from npgpt2 import AdamW, Parameter
from npgpt2 import functional as F
from tests.test_npgpt2.test_learn.wrong_answers import ANSWERS

B, T, C, H, V = 2, 5, 6, 2, 9
EPS = 0.03


def leaf(a):
    return Tensor(a, requires_grad=True)


def draw(exercise):
    """Return arguments for an exercise, and the right gradients: the library's own."""
    rng = np.random.default_rng(7)
    normal = rng.standard_normal
    ids = rng.integers(V - 2, size=(B, T))  # 10 of 7: some repeat, as must be for the embedding
    x, g = normal((B, T, C)), normal((B, T, C))
    maps = [np.eye(C) + normal((C, C)) / 3 for _ in range(4)]  # stand for the parts of a block
    if exercise == "linear":
        weight, bias, g = normal((4, C)), normal(4), normal((B, T, 4))
        return (g, x, weight, bias), F.linear(leaf(x), leaf(weight), leaf(bias)).vjp(g)
    if exercise == "cross_entropy":
        logits, targets, g = normal((B, T, V)), rng.integers(V, size=(B, T)), np.array(1.7)
        return (g, logits, targets), F.cross_entropy(leaf(logits), targets).vjp(g)
    if exercise in ("softmax", "gelu"):
        return (g, x), getattr(F, exercise)(leaf(x)).vjp(g)
    if exercise == "embedding":
        weight = normal((V, C))
        F.embedding(table := leaf(weight), ids).backward(g)
        return (g, weight, ids), (table.grad,)
    if exercise == "layer_norm":
        weight, bias = normal(C), normal(C)
        return (g, x, weight, bias, EPS), F.layer_norm(*map(leaf, (x, weight, bias)), EPS).vjp(g)
    if exercise == "causal_attention":
        q, k, v = normal((3, B, T, C))
        (dqkv,) = F.causal_attention(leaf(np.concatenate([q, k, v], axis=-1)), H).vjp(g)
        heads = [a.reshape(B, T, H, -1).swapaxes(1, 2) for a in (g, q, k, v)]
        parts = np.split(dqkv, 3, axis=-1)
        return tuple(heads), [a.reshape(B, T, H, -1).swapaxes(1, 2) for a in parts]
    if exercise == "residual":
        stream = leaf(x)
        out = stream + F.linear(stream, leaf(maps[0]))
        out.backward(g)
        return (g, x, lambda g: g @ maps[0]), (stream.grad,)
    if exercise == "dropout":
        out = F.dropout(leaf(x), 0.3, rng)
        mask = (out.data != 0).astype(float)
        return (g, x, mask, 0.3), out.vjp(g)
    if exercise == "tied_head":
        weight, body, g = normal((V, C)), leaf(maps[0]), normal((B, T, V))
        table = leaf(weight)
        h = F.gelu(F.linear(F.embedding(table, ids), body))
        F.linear(h, table).backward(g)

        def body_backward(g):
            pre = F.linear(leaf(weight[ids]), body)
            return pre.vjp(*F.gelu(pre).vjp(g))[0]

        return (g, weight, ids, h.data, body_backward), (table.grad,)
    if exercise == "block":
        stream = leaf(x)
        ln_1, attn, ln_2, mlp = map(leaf, maps)
        middle = stream + F.linear(F.linear(stream, ln_1), attn)
        (middle + F.linear(F.linear(middle, ln_2), mlp)).backward(g)
        return (g, *(lambda g, m=m: g @ m for m in maps)), (stream.grad,)
    assert exercise in ("adamw", "adamw of a bias")
    shape = (4, 3) if exercise == "adamw" else (4,)
    p, g, m, v = normal(shape), normal(shape), normal(shape), normal(shape) ** 2
    parameter = Parameter(p.copy())
    parameter.grad = g.copy()
    optimizer = AdamW([parameter], 0.1, (0.8, 0.9), 1e-3, 0.2)
    optimizer.step_count = 2
    optimizer.m[0][...], optimizer.v[0][...] = m, v
    optimizer.step()
    right = parameter.data, optimizer.m[0], optimizer.v[0]
    return (p, g, m, v, 3, 0.1, 0.8, 0.9, 1e-3, 0.2), right


def fits(mine, right, rtol=1e-9):
    return np.shape(mine) == np.shape(right) and np.allclose(mine, right, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.name)
def test_answers_are_wrong_where_they_say_and_nowhere_else(answer):
    biases = answer.name == "adamw_decays_all"  # of a matrix it is right
    args, right = draw("adamw of a bias" if biases else answer.exercise)
    try:
        mine = answer.function(*args)
    except ValueError:
        assert answer.name == "linear_weight_transposed_again"  # here shapes show it
        return
    mine = mine if isinstance(mine, tuple) else (mine,)
    rtol = 1e-5 if "single" in answer.name else 1e-9
    differs = tuple(
        i
        for i, (one, other) in enumerate(zip(mine, right, strict=True))
        if not fits(one, other, rtol)
    )
    assert differs == answer.differs
