"""The parts add up to the gradient. Each part is the gradient if all other paths are cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autograd import Tensor
from npgpt2 import GPT2Config, GPT2Model, Linear, composed, layers, model
from npgpt2 import functional as F
from npgpt2.learn.contributions import (
    Contributions,
    contributions,
    report,
    residual_stream,
)
from npgpt2.learn.trace import watch
from npgpt2.module import Parameter

CONFIG = GPT2Config(vocab_size=13, n_positions=8, n_embd=12, n_layer=2, n_head=2)
IDS = np.random.default_rng(0).integers(0, 13, size=(2, 7))
INPUTS, TARGETS = IDS[:, :-1], IDS[:, 1:]


def make_model():
    """Return a float64 model without dropout, with weights so large that all paths matter."""
    made = GPT2Model(CONFIG, dtype=np.float64).eval()
    rng = np.random.default_rng(1)
    for parameter in made.parameters():
        parameter.data = parameter.data + 0.2 * rng.standard_normal(parameter.shape)
    return made


def watched_loss(made):
    with watch(made):
        return made.loss(INPUTS, TARGETS)


# -- by use --------------------------------------------------------------------------------------


def test_wte_has_the_gradients_of_an_untied_model():
    tied, untied = make_model(), make_model()
    untied.lm_head = Linear(12, 13, bias=False, dtype=np.float64)
    untied.lm_head.weight = Parameter(untied.wte.weight.data.copy())
    untied.loss(INPUTS, TARGETS).backward()
    for loss, head in [
        (watched_loss(tied), "linear_cross_entropy"),
        (_loss_of_logits(tied), "linear (lm_head)"),
    ]:
        split = contributions(loss, tied.wte.weight)
        assert split.name == "wte.weight"
        assert [part.name for part in split.parts] == [head, "embedding (wte)"]
        for part, parameter in zip(split.parts, (untied.lm_head, untied.wte), strict=True):
            np.testing.assert_allclose(part.gradient, parameter.weight.grad, rtol=0, atol=1e-14)
        assert tied.wte.weight.grad is None
        loss.backward()
        np.testing.assert_array_equal(split.gradient, tied.wte.weight.grad)
        tied.zero_grad()


def _loss_of_logits(made):
    with watch(made):
        return F.cross_entropy(made(INPUTS), TARGETS)


OPS = [
    lambda a, b: a + b,
    lambda a, b: a.tanh() * b.tanh(),
    lambda a, b: a.tanh() @ b.tanh(),
    lambda a, b: F.embedding(a, [2, 0, 2]),
    lambda a, b: a + a,
]


@given(
    st.lists(st.tuples(st.integers(0, len(OPS) - 1), st.integers(0, 9), st.integers(0, 9)),
             max_size=10),
    st.integers(0, 100),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_parts_add_up_in_random_graphs(program, seed):
    rng = np.random.default_rng(seed)
    leaf = Tensor(rng.standard_normal((3, 3)), requires_grad=True)
    made = [leaf, leaf.tanh()]
    for kind, i, j in program:
        made.append(OPS[kind](made[i % len(made)], made[j % len(made)]))
    loss = (made[-1] * made[1] + leaf).sum()
    split = contributions(loss, leaf)
    loss.backward()
    np.testing.assert_array_equal(split.gradient, leaf.grad)
    total = np.sum([part.gradient for part in split.parts], axis=0)
    np.testing.assert_allclose(total, leaf.grad, rtol=1e-12, atol=1e-12)
    assert sum(part.share for part in split.parts) == pytest.approx(1.0)
    for part in split.parts:
        assert part.norm == pytest.approx(np.linalg.norm(part.gradient))
        if part.norm:
            assert part.cosine * part.norm == pytest.approx(part.share * split.norm)


def test_the_two_operands_of_one_product_are_one_part():
    x = Tensor([1.0, 2.0], requires_grad=True)
    (part,) = contributions((x * x).sum(), x).parts
    assert part.name == "mul" and part.gradient.tolist() == [2.0, 4.0]
    assert part.cosine == pytest.approx(1.0) and part.share == pytest.approx(1.0)


def test_activations_and_the_loss_itself():
    x = Tensor([1.0, -2.0], requires_grad=True)
    y = x.tanh()
    loss = (y * 3.0).sum() + (y - y * y).sum()
    split = contributions(loss, y)
    assert {part.name for part in split.parts} == {"mul", "sub"}
    np.testing.assert_allclose(split.gradient, 4.0 - 2.0 * y.data)
    (given_part,) = contributions(loss, loss).parts
    assert given_part.name == "given" and given_part.gradient == 1.0


def test_a_gradient_of_zero_has_no_direction():
    x = Tensor([1.0, 2.0], requires_grad=True)
    split = contributions((x * 0.0).sum(), x)
    assert np.isnan(split.parts[0].cosine) and np.isnan(split.parts[0].share)
    assert "nan" in str(split) and "#" not in str(split)


def test_a_tensor_that_is_not_part_of_the_loss():
    x, constant = Tensor([1.0], requires_grad=True), Tensor([2.0])
    loss = (x * constant).sum()
    with pytest.raises(ValueError, match="not part of the traced graph"):
        contributions(loss, Tensor([1.0]))
    with pytest.raises(ValueError, match=r"constant of shape \(1,\) requires no gradient"):
        contributions(loss, constant)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parts_that_do_not_add_up_are_an_error(dtype):
    g = np.array([3.0, 4.0], dtype)
    parts = [("x", np.array([3.0, 0.0], dtype)), ("y", np.array([0.0, 4.0], dtype))]
    Contributions("a", g, parts)
    Contributions("a", g * (1 + np.finfo(dtype).eps), parts)
    off = np.array([3.0, 4.0], dtype)
    off[1] += 100.0 * np.finfo(dtype).eps
    with pytest.raises(ArithmeticError, match="gradient of a do not add up to it: 1 of 2 entries"):
        Contributions("a", off, parts)
    with pytest.raises(ArithmeticError, match="2 of 2 entries are off, by up to 4"):
        Contributions("a", g, [])


def test_values_that_are_not_finite_are_shown():
    x = Tensor([np.inf, 1.0], requires_grad=True)
    with np.errstate(invalid="ignore"):
        split = contributions((x * x + x * -1.0).sum(), x)
    assert "inf" in str(split)


def test_text_shows_the_numbers():
    made = make_model()
    split = contributions(watched_loss(made), made.wte.weight)
    title, _, *rows, together = str(split).splitlines()
    assert title == "wte.weight, (13, 12): the gradient is the sum of 2 parts"
    longest = max(split.norm, *(part.norm for part in split.parts))
    for part, row in zip(split.parts, rows, strict=True):
        assert row[:36].rstrip() == part.name
        norm, cosine, share, percent, *bar = row[36:].split()
        assert (norm, percent) == (f"{part.norm:.2e}", "%")
        assert float(cosine) == pytest.approx(part.cosine, abs=6e-4)
        assert float(share) == pytest.approx(100.0 * part.share, abs=0.06)
        assert len("".join(bar)) == round(20 * part.norm / longest)
    assert together.split()[:2] == ["together", f"{split.norm:.2e}"]
    assert max(map(len, str(split).splitlines())) <= 100


# -- along the residual stream -------------------------------------------------------------------

BRANCHES = ["h.1.mlp", "h.1.attn", "h.0.mlp", "h.0.attn"]  # from the loss down


def gradient_with_a_cut(made, start, cut):
    """Return dL/dx of the stream before a branch, with this branch or its identity cut."""
    states, x = {}, made.wte(INPUTS) + made.wpe(np.arange(6))
    for i, block in enumerate(made.h):
        states[f"h.{i}.attn"] = x
        x = x + block.attn(block.ln_1(x))
        states[f"h.{i}.mlp"] = x
        x = x + block.mlp(block.ln_2(x))
    leaf = x = Tensor(states[start].data, requires_grad=True)
    for name in reversed(BRANCHES[: BRANCHES.index(start) + 1]):
        block = made.h[int(name[2])]
        read = x.detach() if name == start and cut == "branch" else x
        keep = x.detach() if name == start and cut == "identity" else x
        if name.endswith("attn"):
            x = keep + block.attn(block.ln_1(read))
        else:
            x = keep + block.mlp(block.ln_2(read))
    F.linear_cross_entropy(made.ln_f(x), made.wte.weight, TARGETS).backward()
    return leaf.grad


def check_stream(made, stream):
    assert [step.name for step in stream.steps] == [f"before {name}" for name in BRANCHES]
    below = {part.name: part for part in stream.total.parts}
    for name, step in zip(BRANCHES, stream.steps, strict=True):
        identity, branch = step.parts
        assert (identity.name, branch.name) == ("identity", name)
        without_branch = gradient_with_a_cut(made, name, cut="branch")
        without_identity = gradient_with_a_cut(made, name, cut="identity")
        np.testing.assert_allclose(identity.gradient, without_branch, rtol=0, atol=1e-13)
        np.testing.assert_allclose(branch.gradient, without_identity, rtol=0, atol=1e-13)
        assert np.abs(without_identity).max() > 1e-3 and np.abs(without_branch).max() > 1e-3
        np.testing.assert_array_equal(below[name].gradient, branch.gradient)
    np.testing.assert_array_equal(stream.total.gradient, stream.steps[-1].gradient)
    total = np.sum([part.gradient for part in stream.total.parts], axis=0)
    np.testing.assert_allclose(total, stream.total.gradient, rtol=0, atol=1e-13)


def test_the_stream_of_a_model():
    made = make_model()
    stream = residual_stream(watched_loss(made))
    check_stream(made, stream)
    assert [part.name for part in stream.total.parts] == ["layer_norm (ln_f)", *BRANCHES]


def test_the_stream_of_a_model_in_primitives(monkeypatch):
    made = make_model()
    with monkeypatch.context() as patched:
        patched.setattr(layers, "F", composed)
        patched.setattr(model, "F", composed)
        loss = watched_loss(made)
    check_stream(made, residual_stream(loss))


def test_dropout_belongs_to_the_branch():
    made = make_model().train()
    names = [step.name for step in residual_stream(watched_loss(made)).steps]
    assert names == [f"before {name}" for name in BRANCHES]


def test_without_watch_branches_have_the_names_of_ops():
    stream = residual_stream(make_model().loss(INPUTS, TARGETS))
    assert {step.name for step in stream.steps} == {"before linear"}
    assert [part.name for part in stream.total.parts] == ["layer_norm", *["linear"] * 4]


def test_another_reader_of_the_stream_is_a_separate_part():
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = x + (x * 3.0 + x.tanh())
    stream = residual_stream((y * 2.0).sum() + x.exp().sum())
    (step,) = stream.steps
    parts = {part.name: part.gradient for part in step.parts}
    np.testing.assert_allclose(parts["identity"], 2.0)
    np.testing.assert_allclose(parts["add"], 2.0 * (3.0 + 1.0 - np.tanh(x.data) ** 2))
    np.testing.assert_allclose(parts["exp"], np.exp(x.data))
    assert [part.name for part in stream.total.parts] == ["mul", "exp", "add"]


def test_a_sum_is_no_residual_sum_of_itself():
    x = Tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(ValueError, match=r"this graph contains no x \+ f\(x\)"):
        residual_stream(((x + x) + (x * 2.0 + Tensor([1.0, 1.0]))).sum())


def test_broadcast_operands_and_constants_are_not_the_stream():
    x, constant = Tensor([1.0], requires_grad=True), Tensor([1.0])
    for out in (x + x * Tensor([1.0, 2.0]), constant + constant * x):
        with pytest.raises(ValueError, match="no residual sum"):
            residual_stream(out.sum())


def test_text_of_the_stream_shows_the_numbers():
    stream = residual_stream(watched_loss(make_model()))
    lines = str(stream).splitlines()
    assert max(map(len, lines)) <= 100
    end = f"{stream.steps[0].parts[0].norm:.2e}"
    assert lines[3].split() == ["at", "the", "end", end]
    for step, line in zip(stream.steps, lines[4:8], strict=True):
        identity, branch = step.parts
        assert line[:36].rstrip() == step.name
        a, b, cosine, total = line[36:].split()
        assert [a, b, total] == [f"{x:.2e}" for x in (identity.norm, branch.norm, step.norm)]
        inner = np.vdot(identity.gradient, branch.gradient) / identity.norm / branch.norm
        assert float(cosine) == pytest.approx(inner, abs=6e-4)
    assert "\n".join(lines[9:]) == str(stream.total)


# -- the command -----------------------------------------------------------------------------------


def test_the_command_takes_short_names():
    made = make_model()
    loss = watched_loss(made)
    for name, parameter in [
        ("wte", made.wte.weight),
        ("lm_head.weight", made.wte.weight),
        ("h.1.attn.c_attn.bias", made.h[1].attn.c_attn.bias),
    ]:
        text = report(made, name, INPUTS, TARGETS)
        assert text.startswith(str(contributions(loss, parameter)) + "\n\n")
    text = report(made, "stream", INPUTS, TARGETS)
    assert text.startswith(str(residual_stream(loss)) + "\n\n")


def test_the_command_suggests_close_names():
    made = make_model()
    with pytest.raises(ValueError, match=r"'h.0.atn.c_attn'; did you mean .*h.0.attn.*\?"):
        report(made, "h.0.atn.c_attn")
    with pytest.raises(ValueError, match=r"no parameter '\?'; choose wte.weight, wpe.weight"):
        report(made, "?")
