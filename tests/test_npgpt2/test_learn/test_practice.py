"""The judge names every known mistake and nothing else, and gives a verdict on every function."""

import itertools
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from autograd import Tensor
from npgpt2 import functional as F
from npgpt2.disk.files import as_argument
from npgpt2.learn.exercises import EXERCISES
from npgpt2.learn.judge.diagnosis import close, known_mistakes
from npgpt2.learn.judge.slips import slips
from npgpt2.learn.practice import (
    check,
    check_file,
    derivation,
    exercises,
    hints,
    report,
    start,
)

every_exercise = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=list(EXERCISES))


def names(verdict):
    """Return all names of mistakes in a verdict, by gradient."""
    return {g.name: g.mistakes for g in verdict.gradients if g.status != "right"}


def changed(exercise, change):
    """Return an answer: the right gradients, some of them replaced by change(right, arguments)."""

    def answer(*arguments):
        right = dict(zip(exercise.gradients, exercise.reference(*arguments), strict=True))
        return tuple({**right, **change(right, arguments)}.values())

    return answer


# -- right answers -------------------------------------------------------------------------------


def _softmax(x):
    p = np.exp(x)
    return p / np.einsum("...i->...", p)[..., None]


def linear(g, x, weight, bias):
    dweight = np.einsum("bto,bti->oi", g, x)
    return np.einsum("bto,oi->bti", g, weight), dweight, np.einsum("bto->o", g)


def cross_entropy(g, logits, targets):
    B, T, V = logits.shape
    d = _softmax(logits) / (B * T)
    for b, t in itertools.product(range(B), range(T)):
        d[b, t, targets[b, t]] -= 1.0 / (B * T)
    return d * g


def softmax(g, x):
    p = _softmax(x)
    jacobian = p[..., None] * (np.eye(x.shape[-1]) - p[..., None, :])
    return np.einsum("btij,bti->btj", jacobian, g)


def gelu(g, x):
    a, c = 0.044715, math.sqrt(2.0 / math.pi)
    s = 1.0 / (1.0 + np.exp(-2.0 * c * (x + a * x**3)))
    return g * (s + 2.0 * x * s * (1.0 - s) * (c + 3.0 * a * c * x * x))


def embedding(g, weight, ids):
    return np.einsum("btv,btc->vc", np.eye(len(weight))[ids], g)


def layer_norm(g, x, weight, bias, eps):
    C = x.shape[-1]
    centred = x - x.mean(axis=-1, keepdims=True)
    std = np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    xhat = centred / std
    # the whole Jacobian of xhat, of every row
    projection = np.eye(C) - 1.0 / C - xhat[..., :, None] * xhat[..., None, :] / C
    dx = np.einsum("btij,bti->btj", projection / std[..., None], g * weight)
    return dx, np.einsum("btc,btc->c", g, xhat), np.einsum("btc->c", g)


def causal_attention(g, q, k, v):
    T, D = q.shape[-2:]
    scores = np.einsum("bhtd,bhsd->bhts", q, k) / math.sqrt(D)
    p = _softmax(np.where(np.tri(T) > 0.0, scores, -1e300))
    out = p @ v
    dp = np.einsum("bhtd,bhsd->bhts", g, v)
    ds = p * (dp - np.einsum("bhtd,bhtd->bht", g, out)[..., None]) / math.sqrt(D)
    dk = np.einsum("bhts,bhtd->bhsd", ds, q)
    return [np.einsum("bhts,bhsd->bhtd", ds, k), dk, np.einsum("bhts,bhtd->bhsd", p, g)]


def residual(g, x, f_backward):
    return 0.5 * (f_backward(2.0 * g) + 2.0 * g)


def dropout(g, x, mask, p):
    return np.where(mask == 1.0, g / (1.0 - p), 0.0)


def tied_head(g, weight, ids, h, body_backward):
    onehot = np.eye(len(weight))[ids]
    dh = np.einsum("btv,vc->btc", g, weight)
    return np.einsum("btv,btc->vc", onehot, body_backward(dh)) + np.einsum("btv,btc->vc", g, h)


def block(g, ln_1_backward, attn_backward, ln_2_backward, mlp_backward):
    by_mlp = ln_2_backward(mlp_backward(g))
    return g + by_mlp + ln_1_backward(attn_backward(g) + attn_backward(by_mlp))


def adamw(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    m, v = m + (1.0 - beta1) * (g - m), v + (1.0 - beta2) * (g * g - v)
    r = math.sqrt(1.0 - beta2**t)
    step = lr * r / (1.0 - beta1**t) * m / (np.sqrt(v) + r * eps)
    return p * (1.0 - lr * weight_decay * (p.ndim > 1)) - step, m, v


OTHER_FORMS = (
    linear, cross_entropy, softmax, gelu, embedding, layer_norm, causal_attention, residual,
    dropout, tied_head, block, adamw,
)  # fmt: skip


@pytest.mark.parametrize("answer", OTHER_FORMS, ids=lambda f: f.__name__)
def test_a_right_answer_in_another_form_is_right(answer):
    verdict = check(answer.__name__, answer)
    assert verdict.passed, verdict
    assert all(g.status == "right" and g.diagnosis is None for g in verdict.gradients)
    assert verdict.headline.startswith(f"{answer.__name__}: right.")


@every_exercise
def test_the_answer_written_by_hand_is_right(exercise):
    verdict = check(exercise.name, exercise.solution)
    assert verdict.passed, verdict
    assert str(verdict).endswith(verdict.notes[-1])  # the result in a model


def test_another_form_is_there_for_every_exercise():
    assert [f.__name__ for f in OTHER_FORMS] == list(EXERCISES) == list(exercises())


@every_exercise
def test_rounding_is_not_wrong_and_a_millionth_is(exercise):
    def noisy(size):
        rng = np.random.default_rng(0)
        return changed(
            exercise,
            lambda right, _: {
                n: a * (1.0 + size * rng.uniform(-1.0, 1.0, a.shape)) for n, a in right.items()
            },
        )

    verdict = check(exercise.name, noisy(1e-13))
    assert all(g.status == "right" for g in verdict.gradients)
    for size, said in ((1e-7, "may be rounding in float32"), (1e-5, "is not rounding")):
        verdict = check(exercise.name, noisy(size))
        assert not verdict.passed and verdict.diagnosis is None
        assert all(g.status == "wrong" for g in verdict.gradients)
        assert said in str(verdict)


@every_exercise
def test_an_answer_that_is_right_only_on_the_draws_fails_end_to_end(exercise):
    where = 1 if exercise.name == "cross_entropy" else 0  # whose g is a scalar
    shapes = {np.shape(arguments[where]) for arguments in exercise.draws}

    def answer(*arguments):
        factor = 1.0 if np.shape(arguments[where]) in shapes else 2.0
        return tuple(factor * a for a in exercise.reference(*arguments))

    verdict = check(exercise.name, answer)
    assert all(g.status == "right" for g in verdict.gradients)
    assert not verdict.passed
    assert "In a larger computation, your function is wrong" in str(verdict)


def test_the_forward_passes_are_those_of_the_library():
    rng = np.random.default_rng(0)
    x, weight, bias = rng.standard_normal((2, 3, 4)), rng.standard_normal((4, 4)), np.arange(4.0)
    ids = rng.integers(0, 4, (2, 3))
    q, k, v = rng.standard_normal((3, 2, 1, 3, 4))  # of one head
    joined = np.concatenate([a[:, 0] for a in (q, k, v)], axis=-1)
    expected = {
        "linear": (F.linear(x, Tensor(weight), Tensor(bias)), (x, weight, bias)),
        "cross_entropy": (F.cross_entropy(x, ids), (x, ids)),
        "softmax": (F.softmax(x), (x,)),
        "gelu": (F.gelu(x), (x,)),
        "embedding": (F.embedding(Tensor(weight), ids), (weight, ids)),
        "layer_norm": (
            F.layer_norm(x, Tensor(weight[0]), Tensor(bias), 0.1), (x, weight[0], bias, 0.1)
        ),
        "dropout": (F.dropout(x, 0.5, np.random.default_rng(1)), (
            x, np.random.default_rng(1).random(x.shape, dtype=np.float32) >= 0.5, 0.5
        )),
    }  # fmt: skip
    for name, (out, arguments) in expected.items():
        np.testing.assert_allclose(EXERCISES[name].forward(*arguments), out.data, rtol=1e-12)
    out = EXERCISES["causal_attention"].forward(q, k, v)
    np.testing.assert_allclose(out[:, 0], F.causal_attention(joined, 1).data, rtol=1e-12)


# -- wrong answers -------------------------------------------------------------------------------


@every_exercise
def test_every_known_mistake_is_diagnosed_by_its_own_name(exercise):
    assert len({m.name for m in exercise.mistakes}) == len(exercise.mistakes)
    for mistake in known_mistakes(exercise):
        answer = changed(exercise, lambda _, given, mistake=mistake: mistake.gradients(*given))
        verdict = check(exercise.name, answer)
        assert not verdict.passed
        found = names(verdict)
        assert found and set(found.values()) == {(mistake.name,)}, (mistake.name, str(verdict))
        assert verdict.diagnosis == mistake.lesson
        assert str(verdict).count(mistake.lesson) == 1  # blamed once


@every_exercise
def test_factors_are_found(exercise):
    letters = {"-1": -1.0, "2": 2.0, "-3": -3.0, "0": 0.0}
    for name in exercise.gradients:
        for symbol, factor in letters.items():
            scaled = changed(exercise, lambda right, _, n=name, f=factor: {n: f * right[n]})
            (finding,) = names(check(exercise.name, scaled)).values()
            own = {m.name for m in exercise.mistakes}
            assert finding == (f"factor {symbol}",) or set(finding) <= own


def test_factors_are_in_the_letters_of_the_exercise():
    def answer(g, q, k, v):
        dq, dk, dv = EXERCISES["causal_attention"].reference(g, q, k, v)
        B, H, T, D = q.shape
        return -dq * T, dk * math.sqrt(D) / 2.0, dv / (B * H)

    verdict = check("causal_attention", answer)
    assert verdict.gradients[0].mistakes == ("factor -T",)
    assert verdict.gradients[0].diagnosis == ("It has the wrong sign, and an extra factor of T.")
    # the catalogue has the forgotten scale; the factor 1/2 comes on top
    assert verdict.gradients[1].mistakes == ("scale-forgotten", "factor 1/2")
    assert verdict.gradients[2].mistakes == ("factor 1/(B*H)",)


@every_exercise
def test_terms_are_found(exercise):
    own = {m.name for m in exercise.mistakes}
    by_gradient = exercise.terms(*exercise.draws[0])
    for name, terms in by_gradient.items():
        np.testing.assert_allclose(
            sum(terms.values()),
            exercise.expected[0][list(exercise.gradients).index(name)],
            rtol=1e-9, atol=1e-12,
        )  # fmt: skip
        for label, (symbol, factor) in itertools.product(terms, {"0": 0, "-1": -1, "2": 2}.items()):

            def change(right, given, name=name, label=label, factor=factor):
                terms = exercise.terms(*given)[name]
                return {name: right[name] + (factor - 1) * terms[label]}

            (finding,) = names(check(exercise.name, changed(exercise, change))).values()
            assert finding == (f"factor {symbol} of {label}",) or set(finding) <= own


def test_two_wrong_terms_are_both_named():
    def answer(g, x, weight, bias, eps):
        C = x.shape[-1]
        terms = list(EXERCISES["layer_norm"].terms(g, x, weight, bias, eps)["dx"].values())
        _, dweight, dbias = EXERCISES["layer_norm"].reference(g, x, weight, bias, eps)
        return terms[0] - terms[1] + C * terms[2], dweight, dbias

    (dx, dweight, dbias) = check("layer_norm", answer).gradients
    assert dx.diagnosis == (
        "The term -rstd * mean(dxhat) has the wrong sign; "
        "the term -rstd * xhat * mean(dxhat * xhat) has an extra factor of C."
    )
    assert dweight.status == dbias.status == "right"


@every_exercise
def test_what_fits_any_exercise_is_found(exercise):
    if next(iter(exercise.arguments)) != "g":
        return
    one = changed(
        exercise,
        lambda right, given: dict(
            zip(right, exercise.reference(np.ones_like(given[0]), *given[1:]), strict=True)
        ),
    )
    found = names(check(exercise.name, one))
    assert found and set(found.values()) == {("g-forgotten",)}
    if len(exercise.gradients) > 1:
        swapped = changed(
            exercise, lambda right, _: dict(zip(right, reversed(right.values()), strict=True))
        )
        first, *_, last = exercise.gradients
        found = names(check(exercise.name, swapped))
        assert found[first] == (f"{last}-for-{first}",)
        assert found[last] == (f"{first}-for-{last}",)


@every_exercise
def test_slips_of_the_pen_are_found(exercise):
    """Every slip that runs and changes something has a diagnosis. This tests a part of them."""
    every = slips(exercise.solution)
    assert every
    for slip in every[:: max(1, len(every) // 12)]:
        verdict = check(exercise.name, slip.function)
        if any(note.startswith("Your function raises") for note in verdict.notes):
            continue
        for gradient in verdict.gradients:
            assert gradient.status != "wrong" or gradient.diagnosis, (slip.wrong, str(verdict))


def test_one_slip_is_blamed_once():
    def answer(g, q, k, v):
        T, D = q.shape[-2:]
        p = _softmax(np.where(np.tri(T) > 0.0, q @ k.swapaxes(-1, -2) / D, -1e300))
        dp = g @ v.swapaxes(-1, -2)
        ds = p * (dp - (dp * p).sum(axis=-1, keepdims=True)) / math.sqrt(D)
        return ds @ k, ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ g

    verdict = check("causal_attention", answer)
    assert verdict.headline == "causal_attention: dq, dk, dv are wrong, because of one mistake."
    assert verdict.diagnosis == (
        "You get this result with `S = q @ k.swapaxes(-1, -2) / D` "
        "in place of `S = q @ k.swapaxes(-1, -2) / np.sqrt(D)`."
    )
    assert str(verdict).count("The same mistake as in dq") == 2


def test_transposed_and_reshaped_is_found():
    def answer(g, x, weight, bias):
        dx, dweight, dbias = linear(g, x, weight, bias)
        return dx, dweight.T.reshape(dweight.shape), dbias

    assert names(check("linear", answer)) == {"dweight": ("dweight-transposed(0, 1)-reshaped",)}


def test_mistakes_in_different_gradients_are_each_named():
    def answer(g, x, weight, bias):
        return g @ weight.T, -np.einsum("bto,bti->oi", g, x), g.mean(axis=(0, 1))

    verdict = check("linear", answer)  # it runs only if all sizes are equal
    assert names(verdict) == {
        "dx": ("weight-transposed",),
        "dweight": ("factor -1",),
        "dbias": ("dbias-is-mean",),
    }
    assert "raises an error unless all sizes are equal: ValueError: matmul" in verdict.notes[0]
    assert "test_practice.py:" in verdict.notes[0] and "g @ weight.T" in verdict.notes[0]


def test_what_raises_for_another_reason_is_not_named():
    def answer(g, logits, targets):
        p = _softmax(logits)
        p[targets] -= 1.0  # if V = B, this often subtracts 1 from all entries
        return g * p / targets.size

    verdict = check("cross_entropy", answer)
    assert verdict.diagnosis is None and not verdict.passed
    assert "IndexError" in verdict.notes[0]


@every_exercise
def test_mixtures_are_not_named(exercise):
    """A mixture of two mistakes, with random weights, has no name."""
    rng = np.random.default_rng(0)
    mistakes = [m for m in known_mistakes(exercise) if "-and-" not in m.name][-12:]
    for one, other in zip(mistakes, rng.permutation(np.array(mistakes, dtype=object)), strict=True):
        a, b = rng.uniform(0.3, 0.45, 2)

        def change(right, given, one=one, other=other, a=a, b=b):
            with np.errstate(invalid="ignore"):
                some, more = one.gradients(*given), other.gradients(*given)
            both = [n for n in right if n in some and n in more]
            return {
                n: (1.0 - a - b) * right[n] + a * some[n] + b * more[n]
                for n in both
                if some[n].shape == more[n].shape == right[n].shape
            }

        verdict = check(exercise.name, changed(exercise, change))
        for gradient in verdict.gradients:
            if one is not other and not _known_to_be_proportional(exercise, gradient, one, other):
                assert gradient.diagnosis is None, (one.name, other.name, str(gradient))


def _known_to_be_proportional(exercise, gradient, one, other):
    """Whether the two mistakes do not differ in this gradient, so that a mixture is one of them."""
    arguments = exercise.draws[0]
    try:
        with np.errstate(invalid="ignore"):
            some, more = one.gradients(*arguments), other.gradients(*arguments)
    except ValueError:
        return True
    if gradient.name not in some or gradient.name not in more:
        return True
    return close(some[gradient.name], more[gradient.name])


def test_what_is_not_known_is_measured():
    def answer(g, x):
        dx = softmax(g, x)
        dx[:, 1] = np.sin(dx[:, 1])
        return dx

    (dx,) = check("softmax", answer).gradients
    assert dx.status == "wrong" and dx.diagnosis is None
    assert dx.index[1] == 1 and dx.yours == pytest.approx(math.sin(dx.right))
    assert any(line.startswith("relative error") for line in dx.evidence)
    assert any("the cosine of the two is" in line for line in dx.evidence)
    assert "wrong only at 1 of axis 1" in dx.evidence
    assert "it is not linear in g, unlike every vjp" in dx.evidence
    assert "does not know this mistake" in str(dx)


def test_sums_that_are_right_are_evidence():
    def answer(g, x, weight, bias, eps):
        dx, dweight, dbias = layer_norm(g, x, weight, bias, eps)
        return np.roll(dx, 1, axis=-1), dweight, dbias

    dx = check("layer_norm", answer).gradients[0]
    assert "its sum over axis 2 is right" in dx.evidence
    assert "it is linear in g, like every vjp" in dx.evidence


# -- manners -------------------------------------------------------------------------------------


def _with_dx(dx):
    return lambda g, x, weight, bias: (dx(g, x, weight, bias), *linear(g, x, weight, bias)[1:])


@pytest.mark.parametrize(
    ("dx", "status", "text"),
    [
        (
            lambda g, x, w, b: (g @ w).transpose(1, 0, 2),
            "wrong shape",
            "axes (1, 0, 2), it would be",
        ),
        (lambda g, x, w, b: (g @ w)[None], "wrong shape", "summed over axis 0, it would be right"),
        (lambda g, x, w, b: (g @ w).reshape(-1), "wrong shape", "reshaped, it would be right"),
        (
            lambda g, x, w, b: (g @ w).sum(axis=1),
            "wrong shape",
            "right gradient summed over axis 1",
        ),
        (lambda g, x, w, b: np.sin(g @ w)[None], "wrong shape", "but the wrong values"),
        (lambda g, x, w, b: np.zeros((9, 9)), "wrong shape", "shape (9, 9), expected (2, 3, 5)"),
        (lambda g, x, w, b: (g @ w).astype(np.float32), "wrong dtype", "its values are right"),
        (lambda g, x, w, b: np.zeros(x.shape, int), "wrong dtype", "it is int64, but the inputs"),
        (lambda g, x, w, b: g @ w + 0j, "wrong dtype", "it is complex128"),
        (lambda g, x, w, b: abs(g @ w) / 0.0, "not finite", "at [0, 0, 0]: yours inf"),
        (lambda g, x, w, b: np.log(g) @ w, "not finite", "yours nan"),
        (lambda g, x, w, b: None, "not an array", "it is None; return a NumPy array"),
        (lambda g, x, w, b: (g @ w).tolist(), "not an array", "of type list"),
        (lambda g, x, w, b: 1.0, "not an array", "of type float"),
        (lambda g, x, w, b: Tensor(g @ w), "not an array", "a Tensor; return a NumPy array"),
        (lambda g, x, w, b: np.array(["x"]), "not an array", "an array of <U1"),
    ],
)
def test_what_is_no_gradient_is_told_so(dx, status, text):
    verdict = check("linear", _with_dx(dx))
    assert not verdict.passed
    assert [g.status for g in verdict.gradients] == [status, "right", "right"]
    assert text in str(verdict.gradients[0])


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda *_: None, "linear: it returns None, not 3 arrays: dx, dweight, dbias."),
        (lambda g, *_: g, "it returns 1 value, not 3"),
        (lambda g, *_: (g, g), "it returns 2 values, not 3"),
        (lambda g, *_: (g, g, g, g), "it returns 4 values, not 3"),
        (lambda g: g, "linear_backward(g, x, weight, bias) raises TypeError"),
        (lambda *_: 1 / 0, "raises ZeroDivisionError: division by zero ("),
        (lambda *_: (_ for _ in ()).throw(SystemExit), "raises SystemExit ("),
        (max, "raises "),
    ],
)
def test_what_does_not_return_the_gradients_is_told_so(answer, text):
    verdict = check("linear", answer)
    assert not verdict.passed and not verdict.gradients
    assert text in str(verdict)


def test_errors_are_shown_with_the_line_of_the_answer():
    def answer(g, x, f_backward):
        return g + f_backward(g.T)  # f_backward is the judge's code, and raises

    text = str(check("residual", answer))
    assert "expected a gradient of shape (2, 3, 5), got (5, 3, 2) (" in text
    assert "test_practice.py:" in text and "in: return g + f_backward(g.T)" in text


def test_changing_an_input_is_wrong():
    def answer(g, x, weight, bias):
        result = linear(g, x, weight, bias)
        x *= 2.0
        return result

    verdict = check("linear", answer)
    assert not verdict.passed and verdict.headline == "linear: not right yet."
    assert verdict.notes == (
        "Your function changes its input x, which other code needs. Work on a copy.",
    )


def test_sharing_memory_with_an_input_is_a_danger():
    def answer(g, x, mask, p):
        x[...] = x  # writes, but changes nothing
        return np.multiply(g, mask / (1.0 - p), out=g)

    verdict = check("dropout", answer)
    assert not verdict.passed
    assert "Your function changes its input g" in verdict.notes[0]
    assert "Danger: dx has the same memory as the input g" in verdict.notes[1]
    view = check("dropout", lambda g, x, mask, p: g[:])
    assert "Danger: dx has the same memory as the input g" in view.notes[0]
    assert view.gradients[0].mistakes == ("mask-and-scale-forgotten",)


def test_chance_is_told_so():
    rng = np.random.default_rng(0)
    verdict = check("gelu", lambda g, x: gelu(g, x) * (1.0 + 1e-14 * rng.random()))
    assert not verdict.passed
    assert verdict.notes == (
        "Your function gives different results if you call it twice with the same inputs.",
    )


def test_a_buffer_that_is_used_again_is_no_answer_to_earlier_calls():
    buffer = {}

    def answer(g, x):
        out = buffer.setdefault(g.shape, np.empty_like(g))
        out[...] = gelu(g, x)
        return out

    assert check("gelu", answer).passed


def test_float64_of_float32_inputs_is_noted():
    def answer(g, weight, ids):
        dweight = np.zeros(weight.shape)
        np.add.at(dweight, ids, g)
        return dweight

    verdict = check("embedding", answer)
    assert verdict.passed
    assert "for float32 inputs, dweight is float64" in verdict.notes[0]


def test_warnings_of_an_answer_are_no_errors():
    def answer(g, x):
        warnings.warn("now", stacklevel=1)
        np.log(-1.0)
        return gelu(g, x)

    assert check("gelu", answer).passed


def test_an_answer_may_use_the_library_itself():
    def answer(g, x, weight, bias, eps):
        leaves = [Tensor(a, requires_grad=True) for a in (x, weight, bias)]
        F.layer_norm(*leaves, eps).backward(g)
        return [leaf.grad for leaf in leaves]

    assert check("layer_norm", answer).passed


def test_what_cannot_be_judged_is_an_error():
    with pytest.raises(ValueError, match="no exercise 'lineal'; choose one of linear, cross_entr"):
        check("lineal", linear)
    with pytest.raises(TypeError, match="expected a function, not int"):
        check("linear", 3)
    with pytest.raises(KeyboardInterrupt):
        check("linear", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))


# -- files ---------------------------------------------------------------------------------------


@every_exercise
def test_a_starting_file_runs_and_is_not_yet_written(exercise, tmp_path):
    path = tmp_path / "mine.py"
    assert report(exercise.name, start_file=str(path)).startswith(f"{path}: write ")
    text = path.read_text()
    verdict = check_file(exercise.name, path)
    assert "not yet written" in verdict.headline and not verdict.passed
    assert f"mine.py:{len(text.splitlines())}" in verdict.headline
    # Its forward pass is the same as in the exercise, and needs nothing else.
    module = {}
    exec(text, module)
    arguments = {
        n: a
        for n, a in zip(exercise.arguments, exercise.draws[0], strict=True)
        if not callable(a) and n != "g"
    }
    if not any(n.endswith("_backward") for n in exercise.arguments) and exercise.name != "adamw":
        np.testing.assert_array_equal(module["forward"](**arguments), exercise.forward(**arguments))
    with pytest.raises(FileExistsError, match="exists and stays unchanged"):
        start(exercise.name, path)
    assert path.read_text() == text


def test_a_file_is_judged_and_its_prints_are_kept(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "print('reading')\n"
        "def residual_backward(g, x, f_backward):\n"
        "    print('shape', g.shape)\n"
        "    return g + f_backward(g)\n"
        "if __name__ == '__main__':\n"
        "    1 / 0\n"
    )
    verdict = check_file("residual", path)
    assert verdict.passed
    assert verdict.output == "reading\nshape (2, 3, 5)\n"
    said = report("residual", str(path))
    assert said.passed and str(said).endswith("Your code printed:\nreading\nshape (2, 3, 5)")
    path.write_text("def residual_backward(g, x, f_backward):\n    return g - f_backward(g)\n")
    said = report("residual", str(path))
    assert not said.passed and said.gradients[0].mistakes == ("subtracted",)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("x = 1\ndef f(:\n", r"mine\.py:2: SyntaxError: "),
        ("  x = 1\n", r"mine\.py:1: IndentationError: "),
        ("x = 1\0\n", r"mine\.py"),
        ("x = 1\nimport nothing_of_this_name\n", r"ModuleNotFoundError.*mine\.py:2, in: import no"),
        ("\nraise SystemExit(3)\n", r"cannot be run: SystemExit: 3 \(.*mine\.py:2"),
        (
            "def gelu(g, x): pass\n",
            r"has no function gelu_backward\(g, x\); its functions are gelu",
        ),
        ("", r"has no function gelu_backward\(g, x\)$"),
        ("gelu_backward = 3\n", r"has no function gelu_backward"),
    ],
)
def test_files_that_cannot_be_judged_are_errors_with_the_line(tmp_path, text, error):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=error) as caught:
        check_file("gelu", path)
    assert "\n" not in str(caught.value)


def test_files_do_not_see_each_other(tmp_path):
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_text("helper = 1\ndef gelu_backward(g, x):\n    return helper\n")
    other.write_text("def gelu_backward(g, x):\n    return helper\n")
    assert "of type int" in str(check_file("gelu", one))
    assert "NameError" in str(check_file("gelu", other))
    with pytest.raises(FileNotFoundError):
        check_file("gelu", tmp_path / "none.py")


# -- the command line, hints, derivations --------------------------------------------------------


@every_exercise
def test_hints_and_derivation(exercise):
    assert hints(exercise.name) == exercise.hints and len(set(exercise.hints)) == 3
    assert hints(exercise.name, 1) == exercise.hints[:1]
    page = derivation(exercise.name)
    assert ">>> " in page
    assert report(exercise.name, hint=2) == exercise.hints[1]
    assert report(exercise.name, show_derivation=True) == page
    assert f"def {exercise.function}(" in report(exercise.name)


def test_without_a_name_the_exercises_are_listed():
    lines = report().splitlines()
    assert [line.split()[0] for line in lines] == list(EXERCISES)
    assert all(len(line) <= 100 for line in lines)


def test_what_makes_no_sense_is_an_error():
    with pytest.raises(ValueError, match="no exercise"):
        report("none")
    for n in (0, 4):
        with pytest.raises(ValueError, match="choose 1, 2 or 3"):
            report("gelu", hint=n)
    with pytest.raises(ValueError, match="choose one"):
        report("gelu", "mine.py", hint=1)


# -- functions of bad manners ----------------------------------------------------------------------


def softmax_right(g, x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    return p * (g - np.sum(g * p, axis=-1, keepdims=True))


def test_of_nan_alone_nothing_is_named():
    verdict = check("softmax", lambda g, x: np.nan * softmax_right(g, x))
    assert verdict.diagnosis is None and verdict.gradients[0].status == "not finite"
    assert "0/0, from inf - inf" in str(verdict)

    def adamw(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        m_hat, v_hat = m / (1 - beta1 * t), v / (1 - beta2 * t)  # a product, not a power
        return p - lr * (m_hat / (np.sqrt(v_hat) + eps) + weight_decay * p * (p.ndim > 1)), m, v

    assert check("adamw", adamw).diagnosis is None


def test_what_an_answer_keeps_between_calls_is_noticed():
    kept = {}

    def answer(g, x):
        return kept.setdefault(g.shape, softmax_right(g, x)).copy()

    verdict = check("softmax", answer)
    assert not verdict.passed and "keep something from an earlier call" in str(verdict)


@pytest.mark.parametrize("calls", [1, 7])
@pytest.mark.parametrize("error", [SystemExit(0), GeneratorExit(), MemoryError()])
def test_whatever_is_raised_at_whatever_call_is_told(calls, error):
    count = iter(range(1, 10_000))

    def answer(g, x):
        if next(count) >= calls:
            raise error
        return softmax_right(g, x)

    verdict = check("softmax", answer)
    assert not verdict.passed and f"raises {type(error).__name__}" in str(verdict)


def test_an_answer_that_changes_its_mind_is_told_so():
    for other in (None, [1.0], (1.0, 2.0)):
        count = iter(range(10_000))
        verdict = check(
            "softmax",
            lambda g, x: softmax_right(g, x) if next(count) < 5 else other,  # noqa: B023
        )
        assert not verdict.passed and "gives different results" in str(verdict)
    of_float32 = check("softmax", lambda g, x: None if g.dtype == "f" else softmax_right(g, x))
    assert of_float32.passed


def test_masked_arrays_are_not_compared_past_their_mask():
    answer = lambda g, x: np.ma.masked_array(7.0 * softmax_right(g, x), mask=True)  # noqa: E731
    verdict = check("softmax", answer)
    assert verdict.gradients[0].status == "not an array" and "a masked array" in str(verdict)


def test_an_array_of_many_axes_takes_no_time():
    verdict = check("softmax", lambda g, x: np.zeros((1,) * 12))
    assert verdict.gradients[0].status == "wrong shape"


def test_an_exception_that_cannot_be_printed_and_a_function_that_wraps_itself():
    class Odd(Exception):
        def __str__(self):
            raise ValueError

    def answer(g, x):
        raise Odd

    answer.__wrapped__ = answer
    assert "raises Odd" in check("softmax", answer).headline


def test_a_file_may_have_dataclasses(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Kept:\n    a: int = 1\n"
        "def residual_backward(g, x, f_backward):\n    return g + f_backward(g)\n"
    )
    modules = set(sys.modules)
    assert check_file("residual", path).passed
    assert set(sys.modules) == modules


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\x00\x01", r"mine.py: "), (b"-" * 100_000 + b"1", "cannot be compiled"), (b"x =", ":1: ")],
)
def test_what_cannot_be_compiled_is_a_line(tmp_path, content, message):
    path = tmp_path / "mine.py"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        check_file("softmax", path)


@pytest.mark.parametrize("flag", [{"start_file": "x.py"}, {"hint": 1}, {"show_derivation": True}])
def test_flags_need_an_exercise(flag):
    with pytest.raises(ValueError, match="name the exercise"):
        report(**flag)


@pytest.mark.parametrize("name", ["my file.py", "-x.py", "it's.py", "a\nb.py", '"""\\.py'])
def test_the_command_that_judges_a_starting_file_can_be_typed(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = report("softmax", start_file=name)
    command = f"npgpt2 practice softmax {as_argument(name)}"
    assert said.endswith(f"then {command}")
    assert command in Path(name).read_text() or '"""' in name
    assert "not yet written" in check_file("softmax", name).headline
