"""How often the judge names a mistake, measured on answers written without a look at it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from autograd import Tensor
from npgpt2 import AdamW, Parameter
from npgpt2 import functional as F
from npgpt2.learn.practice import check, exercises
from tests.test_npgpt2.test_learn.test_judge.wrong_answers import ANSWERS

WRONG = [answer for answer in ANSWERS if answer.label]
RIGHT = [answer for answer in ANSWERS if not answer.label]

# All mistakes that the judge should name in each answer. They were derived from the labels before
# the first verdict. None: the catalogue does not have the mistake, and the judge must say so.
EXPECTED = {
    "linear_bias_over_time_only": None,
    "linear_weight_transposed_again": {"weight-transposed"},
    "linear_bias_averaged": {"dbias-is-mean"},
    "linear_last_row_only": None,
    "linear_bias_in_dx": None,
    "linear_all_pairs_of_times": None,
    "linear_bias_as_factor": None,
    "linear_weight_averaged_over_batch": {"factor 1/B"},
    "cross_entropy_summed": {"not-averaged"},
    "cross_entropy_without_g": {"g-forgotten"},
    "cross_entropy_mean_over_batch": {"averaged-over-batch-only"},
    "cross_entropy_softmax_twice": {"twice-through-softmax"},
    "cross_entropy_target_only": {"of-target-only"},
    "cross_entropy_gradient_of_p": {"of-the-probabilities"},
    "cross_entropy_softmax_over_time": {"softmax-over-time"},
    "cross_entropy_sign_and_sum": {"factor -B*T"},
    "cross_entropy_no_target": {"onehot-forgotten"},
    "cross_entropy_targets_shifted": None,
    "softmax_diagonal": {"elementwise"},
    "softmax_plain_sum": {"unweighted-sum"},
    "softmax_no_p_in_front": {"p-forgotten-before"},
    "softmax_sum_over_time": {"summed-over-time"},
    "softmax_off_diagonal_sign": None,
    "softmax_of_log": {"of-log-softmax"},
    "softmax_jacobian_of_first_row": None,
    "softmax_normaliser_constant": {"factor 0 of -p * sum(g * p)"},
    "gelu_of_erf": {"erf"},
    "gelu_tanh_not_squared": {"square-forgotten"},
    "gelu_quick": {"sigmoid-form"},
    "gelu_no_inner_derivative": {"chain-rule"},
    "gelu_half_forgotten": {"half-forgotten-in-second"},
    "gelu_tanh_slope_at_x": None,
    "gelu_gate_constant": {"product-rule-second"},
    "gelu_root_of_two_over_pi": None,
    "embedding_fancy_plus_equals": {"duplicates-overwritten"},
    "embedding_averaged": {"mean-of-duplicates"},
    "embedding_first_use": {"first-place-only"},
    "embedding_times_weight": {"times-weight"},
    "embedding_starts_from_weight": {"added-to-weight"},
    "embedding_off_by_one": None,
    "embedding_ids_transposed": {"ids-in-other-order"},
    "layer_norm_no_mean_path": {"mean-term"},
    "layer_norm_std_constant": {"variance-term"},
    "layer_norm_gain_last": {"gain-outside"},
    "layer_norm_half_variance_path": {"factor 1/2 of -rstd * xhat * mean(dxhat * xhat)"},
    "layer_norm_means_over_time": {"means-over-time"},
    "layer_norm_swapped": {"dbias-for-dweight", "dweight-for-dbias"},
    "layer_norm_dweight_of_centred": {"dweight-of-centred"},
    "layer_norm_no_eps": {"eps-forgotten"},
    "layer_norm_times_std": {"std-for-rstd"},
    "attention_no_scale": {"scale-forgotten"},
    "attention_dk_untransposed": {"dk-untransposed"},
    "attention_no_mask": {"mask-forgotten"},
    "attention_scale_by_d": {"S = q @ k.swapaxes(-1, -2) / D"},
    "attention_rows_overwrite": None,
    "attention_inner_over_queries": {"softmax-sum-over-rows"},
    "attention_dv_of_scores": {"dv-of-scores"},
    "attention_dk_scaled_twice": {"scale-twice"},
    "attention_mask_one_ahead": {"mask-off-by-one"},
    "residual_branch_only": {"identity-forgotten"},
    "residual_identity_twice": {"factor 2 of g"},
    "residual_averaged": {"averaged"},
    "residual_product": {"multiplied"},
    "residual_adds_x": {"x-for-g"},
    "residual_x_to_branch": {"backward-of-x"},
    "residual_through_twice": {"twice-through-f"},
    "dropout_unscaled": {"scale-forgotten"},
    "dropout_divided_by_p": {"scale-of-p"},
    "dropout_times_keep": {"scale-inverted"},
    "dropout_times_x": {"times-x"},
    "dropout_inverted_mask": {"mask-inverted"},
    "dropout_scaled_by_share_kept": {"scale-of-share-kept"},
    "dropout_new_mask": None,
    "dropout_scaled_twice": {"scale-twice"},
    "tied_head_only": {"embedding-use-forgotten"},
    "tied_embedding_only": {"head-use-forgotten"},
    "tied_body_skipped": {"body-skipped"},
    "tied_head_with_embeddings": {"head-of-embedding"},
    "tied_uses_averaged": {"averaged"},
    "tied_repeated_lost": {"duplicates-overwritten"},
    "tied_head_last_position": None,
    "block_no_attention_residual": {"attention-residual-forgotten"},
    "block_no_mlp_residual": {"mlp-residual-forgotten"},
    "block_in_parallel": {"parallel"},
    "block_norms_first": {"norm-first"},
    "block_attention_first": {"forward-order"},
    "block_without_ln_2": {"ln-2-forgotten"},
    "block_post_norm": None,
    "block_g_once_more": {"g-twice"},
    "adamw_uncorrected": {"no-bias-correction"},
    "adamw_coupled": {"decay-coupled"},
    "adamw_decays_all": {"decay-of-vectors"},
    "adamw_step_after": {"step-counted-twice"},
    "adamw_keeps_corrected": {"corrected-moments-returned"},
    "adamw_decay_after": {"decay-after-the-step"},
    "adamw_no_root": {"root-forgotten"},
    "adamw_raw_gradient": {"g-for-m"},
    "adamw_square_of_m": {"v-of-m"},
}

B, T, C, H, V = 2, 5, 6, 2, 9
EPS = 0.03


def leaf(a):
    return Tensor(a, requires_grad=True)


def draw(exercise):
    """Return arguments for an exercise, and the right gradients from the library."""
    rng = np.random.default_rng(7)
    normal = rng.standard_normal
    ids = rng.integers(V - 2, size=(B, T))  # 10 ids, 7 values: the embedding needs repeated ids
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


def fits(mine, right):
    return np.shape(mine) == np.shape(right) and np.allclose(mine, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.name)
def test_answers_are_wrong_where_they_say_and_nowhere_else(answer):
    biases = answer.name == "adamw_decays_all"  # this answer is right for a matrix
    args, right = draw("adamw of a bias" if biases else answer.exercise)
    try:
        mine = answer.function(*args)
    except ValueError:
        assert answer.name == "linear_weight_transposed_again"  # the shapes do not fit
        return
    mine = mine if isinstance(mine, tuple) else (mine,)
    pairs = enumerate(zip(mine, right, strict=True))
    assert tuple(i for i, (one, other) in pairs if not fits(one, other)) == answer.differs


def named(answer):
    """Return the judge's verdict, and the names of all mistakes that it found."""
    verdict = check(answer.exercise, answer.function)
    return verdict, {mistake for gradient in verdict.gradients for mistake in gradient.mistakes}


@pytest.mark.parametrize("answer", WRONG, ids=lambda answer: answer.name)
def test_the_mistake_is_named_or_said_to_be_unknown(answer):
    verdict, mistakes = named(answer)
    assert not verdict.passed
    assert mistakes == (EXPECTED[answer.name] or set()), f"{answer.label}:\n{verdict}"
    wrong = {i for i, gradient in enumerate(verdict.gradients) if gradient.status != "right"}
    assert wrong == set(answer.differs)
    for i in wrong:  # each wrong gradient has an explanation or measurements
        gradient = verdict.gradients[i]
        assert bool(gradient.diagnosis) == bool(gradient.mistakes)
        assert gradient.diagnosis or gradient.evidence


@pytest.mark.parametrize("answer", RIGHT, ids=lambda answer: answer.name)
def test_other_forms_of_the_right_answer_pass(answer):
    verdict, mistakes = named(answer)
    assert verdict.passed, verdict
    assert not mistakes


def test_the_measure():
    """None of 98 wrong answers passes. The judge names 83 correctly, and calls 15 unknown."""
    table = Counter()
    for answer in WRONG:
        verdict, mistakes = named(answer)
        if verdict.passed:
            table["passed"] += 1
        elif not mistakes:
            table["unknown"] += 1
        else:
            table["named" if mistakes == EXPECTED[answer.name] else "wrongly named"] += 1
    assert table == {"named": 83, "unknown": 15}


def test_every_exercise_has_wrong_answers_and_a_right_one():
    assert set(EXPECTED) == {answer.name for answer in WRONG}
    for name in exercises():
        assert sum(answer.exercise == name for answer in WRONG) >= 5
        assert any(answer.exercise == name for answer in RIGHT)
