"""Optimizers, clipping and schedule follow their formulas, and equal torch's step by step."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autograd import Tensor
from npgpt2 import SGD, AdamW, GPT2Config, Parameter, clip_grad_norm, cosine_schedule, optim
from npgpt2 import functional as F
from npgpt2.machine.work import BLOCK
from tests.optional import has, needs
from tests.test_npgpt2 import cases
from tests.test_npgpt2.cases import assert_close

if has("torch"):
    import torch

    from tests.test_npgpt2 import torch_gpt2

SHAPES = ((5, 3), (4,), (2, 3, 2))
SEEDS = st.integers(0, 2**32 - 1)


def make_parameters(seed=0):
    rng = np.random.default_rng(seed)
    return [Parameter(rng.standard_normal(shape)) for shape in SHAPES]


def as_torch(parameters):
    return [torch.nn.Parameter(torch.from_numpy(p.data.copy())) for p in parameters]


def set_gradients(parameters, seed, size=1.0):
    rng = np.random.default_rng(seed)
    for parameter in parameters:
        parameter.grad = size * rng.standard_normal(parameter.shape)


def decayed_apart(parameters, weight_decay):
    """Return torch's parameter groups in which only matrices decay."""
    groups = {True: [], False: []}
    for parameter in parameters:
        groups[parameter.ndim >= 2].append(parameter)
    return [
        {"params": groups[matrices], "weight_decay": weight_decay if matrices else 0.0}
        for matrices in groups
    ]


# -- trajectories --------------------------------------------------------------------------------

OPTIMIZERS = {
    "AdamW": (
        lambda ps: AdamW(ps, lr=0.01),
        lambda ps: torch.optim.AdamW(decayed_apart(ps, 0.01), lr=0.01),
    ),
    "AdamW, other values": (
        lambda ps: AdamW(ps, lr=0.1, betas=(0.5, 0.7), eps=0.1, weight_decay=0.3),
        lambda ps: torch.optim.AdamW(decayed_apart(ps, 0.3), lr=0.1, betas=(0.5, 0.7), eps=0.1),
    ),
    "AdamW, no decay": (
        lambda ps: AdamW(ps, weight_decay=0.0),
        lambda ps: torch.optim.AdamW(ps, lr=1e-3, weight_decay=0.0),
    ),
    "SGD": (lambda ps: SGD(ps, lr=0.1), lambda ps: torch.optim.SGD(ps, lr=0.1)),
    "SGD with momentum": (
        lambda ps: SGD(ps, lr=0.1, momentum=0.8),
        lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.8),
    ),
}
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


@needs("torch")
@each_optimizer
@given(seed=SEEDS)
def test_ten_steps_equal_torchs(name, seed):
    parameters = make_parameters(seed % 1000)
    theirs = as_torch(parameters)
    make, make_torch = OPTIMIZERS[name]
    optimizer, torch_optimizer = make(parameters), make_torch(theirs)
    for step in range(10):
        set_gradients(parameters, seed + step)
        for parameter, other in zip(parameters, theirs, strict=True):
            other.grad = torch.from_numpy(parameter.grad.copy())
        optimizer.step()
        torch_optimizer.step()
    for parameter, other in zip(parameters, theirs, strict=True):
        assert_close(parameter.data, other.detach().numpy(), name)


@needs("torch")
@pytest.mark.parametrize("seed", range(10))
def test_ten_steps_of_gpt2_with_clipping_and_schedule_follow_torch(seed):
    max_norm = 0.3
    config = cases.random_config(seed)
    model = cases.random_model(config, seed)
    oracle = torch_gpt2.load(config, model.state_dict())
    optimizer = AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    torch_optimizer = torch.optim.AdamW(decayed_apart(oracle.parameters(), 0.1), betas=(0.9, 0.95))
    clipped = 0
    for step in range(10):
        lr = cosine_schedule(step, max_lr=1e-2, min_lr=1e-3, warmup_steps=3, total_steps=9)
        ids, targets = cases.random_batch(config, 100 * seed + step)
        ours = cases.run(model, ids, targets)
        theirs = torch_gpt2.run_torch(oracle, ids, targets)
        np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-8)
        norm = clip_grad_norm(model.parameters(), max_norm)
        torch_norm = torch.nn.utils.clip_grad_norm_(oracle.parameters(), max_norm)
        np.testing.assert_allclose(norm, float(torch_norm), rtol=1e-8)
        clipped += norm > max_norm
        optimizer.lr = lr
        for group in torch_optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        torch_optimizer.step()
    assert clipped >= 5  # clipping was active
    weights = model.state_dict()
    for name, parameter in oracle.named_parameters():
        # The rounding errors of ten gradients add up: allow 1e-8 of an entry and of the largest.
        expected = parameter.detach().numpy()
        atol = 1e-8 * np.abs(expected).max()
        np.testing.assert_allclose(weights[name], expected, rtol=1e-8, atol=atol, err_msg=name)
    assert optimizer.step_count == 10


# -- AdamW ---------------------------------------------------------------------------------------


def test_the_first_adamw_step_is_the_sign_of_the_gradient():
    """With m/(1 - beta1) = g and v/(1 - beta2) = g**2, the step is lr * g / (|g| + eps)."""
    for g in (3.0, -1e-3):
        parameter = Parameter(np.array([2.0]))
        parameter.grad = np.array([g])
        AdamW([parameter], lr=0.5, eps=1e-4).step()
        assert_close(parameter.data, [2.0 - 0.5 * g / (abs(g) + 1e-4)])


@given(lr=st.floats(0.0, 1.0), weight_decay=st.floats(0.0, 1.0), steps=st.integers(1, 4))
def test_adamw_only_shrinks_matrices_where_the_gradient_is_0(lr, weight_decay, steps):
    matrix, vector = Parameter(np.full((2, 2), 3.0)), Parameter(np.full(2, 3.0))
    matrix.grad, vector.grad = np.zeros((2, 2)), np.zeros(2)
    optimizer = AdamW([matrix, vector], lr=lr, weight_decay=weight_decay)
    for _ in range(steps):
        optimizer.step()
    assert_close(matrix.data, np.full((2, 2), 3.0 * (1.0 - lr * weight_decay) ** steps))
    assert np.array_equal(vector.data, [3.0, 3.0])


@given(seed=SEEDS, lr=st.floats(1e-3, 0.5), weight_decay=st.floats(0.0, 1.0))
def test_weight_decay_enters_the_weights_and_no_moment(seed, lr, weight_decay):
    """A step with decay first shrinks the matrices; then it equals a step without decay."""
    plain, decayed = make_parameters(seed % 1000), make_parameters(seed % 1000)
    without = AdamW(plain, lr=lr, weight_decay=0.0)
    optimizer = AdamW(decayed, lr=lr, weight_decay=weight_decay)
    for step in range(3):
        before = [[p.data.copy() for p in parameters] for parameters in (plain, decayed)]
        for parameters in (plain, decayed):
            set_gradients(parameters, seed + step)
        without.step()
        optimizer.step()
        for p, q, p_before, q_before in zip(plain, decayed, *before, strict=True):
            shrunk = q_before * (1.0 - lr * weight_decay) if q.ndim >= 2 else q_before
            np.testing.assert_allclose(q.data, shrunk + (p.data - p_before), rtol=0, atol=1e-14)
        for m, n in zip(without.m + without.v, optimizer.m + optimizer.v, strict=True):
            assert np.array_equal(m, n)


def test_adamw_counts_one_step_for_all_parameters():
    parameters = make_parameters()
    optimizer = AdamW(parameters)
    for step in range(1, 4):
        set_gradients(parameters, step)
        optimizer.step()
        assert optimizer.step_count == step


@pytest.mark.parametrize("name", ["AdamW", "SGD with momentum"])
def test_a_parameter_given_twice_is_stepped_once(name):
    once, twice = make_parameters(), make_parameters()
    for parameters, given_ in ((once, once), (twice, twice + twice)):
        optimizer = OPTIMIZERS[name][0](given_)
        set_gradients(parameters, 1)
        optimizer.step()
        assert len(optimizer.parameters) == len(parameters)
    for a, b in zip(once, twice, strict=True):
        assert np.array_equal(a.data, b.data)


def test_small_and_large_parameters_of_any_kind_follow_the_formula(
    betas=(0.9, 0.99), lr=0.1, decay=0.3
):
    """Parameters in packs, alone and in blocks, of two dtypes, not contiguous, or without grad."""
    rng, shapes = np.random.default_rng(0), [(3, 4), (5,), (300, 250), (BLOCK + 7,), (), (2, 2, 2)]
    arrays = [rng.standard_normal(shape) for shape in shapes]
    arrays += [rng.standard_normal((4, 3)).T, rng.standard_normal((7, 2))[:, 0]]
    arrays += [rng.standard_normal((2, 3)).astype(np.float32)]
    parameters = [Parameter(a) for a in arrays]
    assert not parameters[6].data.flags.c_contiguous
    expected = [a.astype(np.float64) for a in arrays]
    m, v = ([np.zeros_like(a) for a in expected] for _ in range(2))
    optimizer = AdamW(parameters, lr=lr, betas=betas, weight_decay=decay)
    for t in range(1, 5):
        for i, p in enumerate(parameters):
            p.grad = rng.standard_normal(p.shape).astype(p.dtype) if (i + t) % 4 else None
            if p.grad is None:
                continue
            m[i] = betas[0] * m[i] + (1.0 - betas[0]) * p.grad
            v[i] = betas[1] * v[i] + (1.0 - betas[1]) * p.grad.astype(np.float64) ** 2
            if p.ndim >= 2:
                expected[i] = expected[i] * (1.0 - lr * decay)
            m_hat, v_hat = m[i] / (1.0 - betas[0] ** t), v[i] / (1.0 - betas[1] ** t)
            expected[i] = expected[i] - lr * m_hat / (np.sqrt(v_hat) + 1e-8)
        optimizer.step()
    for i, p in enumerate(parameters):
        if p.dtype == np.float64:
            for ours, formula in ((p.data, expected), (optimizer.m[i], m), (optimizer.v[i], v)):
                assert_close(ours, formula[i], str(i))
        else:
            np.testing.assert_allclose(p.data, expected[i], rtol=1e-5)
        assert np.shares_memory(p.data, arrays[i])


def with_shapes(*shapes):
    parameters = [Parameter(np.zeros(shape)) for shape in shapes]
    for p in parameters:
        p.grad = np.ones(p.shape)
    return parameters


def test_gradients_and_parameters_of_other_shapes_are_refused():
    """They are refused even if their sizes, or the sum of the sizes, would fit."""

    def transpose(parameters):
        parameters[0].grad = np.ones((3, 2))

    def exchange(parameters):
        parameters[1].grad, parameters[2].grad = parameters[2].grad, parameters[1].grad

    def enlarge(parameters):
        parameters[1].data, parameters[1].grad = np.zeros(6), np.ones(6)

    for spoil in (transpose, exchange, enlarge):
        parameters = with_shapes((2, 3), (2,), (3,))
        optimizer = AdamW(parameters)
        spoil(parameters)
        with pytest.raises(ValueError, match=r"parameter of shape .* has a gradient of shape"):
            optimizer.step()
        assert optimizer.step_count == 0 and not any(pack.m.any() for pack in optimizer._packs)
        assert not any(p.data.any() for p in parameters)


def test_gradients_need_not_be_contiguous():
    one, other = with_shapes((2, 3), (4, 3)), with_shapes((2, 3), (4, 3))
    for i, (p, q) in enumerate(zip(one, other, strict=True)):
        p.grad = np.random.default_rng(i).standard_normal(p.shape)
        q.grad = np.asfortranarray(p.grad)
    for parameters in (one, other):
        AdamW(parameters).step()
    for p, q in zip(one, other, strict=True):
        assert np.array_equal(p.data, q.data)


@each_optimizer
def test_two_parameters_of_one_array_are_refused(name):
    array = np.ones((2, 3))
    with pytest.raises(ValueError, match="two parameters have the same array"):
        OPTIMIZERS[name][0]([Parameter(array), Parameter(array)])


@each_optimizer
def test_a_parameter_without_gradient_is_left_alone(name):
    parameters = make_parameters()
    optimizer = OPTIMIZERS[name][0](parameters)
    set_gradients(parameters, 0)
    optimizer.step()
    before = [p.data.copy() for p in parameters]
    set_gradients(parameters, 1)
    parameters[0].grad = None
    optimizer.step()
    assert np.array_equal(parameters[0].data, before[0])
    assert not np.array_equal(parameters[1].data, before[1])


@each_optimizer
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_steps_are_in_place_and_keep_the_dtype(name, dtype):
    parameter = Parameter(np.ones((2, 3), dtype=dtype))
    parameter.grad = np.full((2, 3), 2.0, dtype=dtype)
    array, gradient = parameter.data, parameter.grad
    optimizer = OPTIMIZERS[name][0]([parameter])
    optimizer.step()
    assert parameter.data is array and array.dtype == dtype and (array < 1.0).all()
    assert parameter.grad is gradient and (gradient == 2.0).all()
    optimizer.zero_grad()
    assert parameter.grad is None


def test_adamw_goes_on_from_its_state_bit_for_bit():
    straight, parts = make_parameters(), make_parameters()
    first = AdamW(straight)
    second = AdamW(parts)
    for step in range(4):
        if step == 2:
            state = second.state_dict()
            second.step_count = 99
            second.m[0][...] = second.v[0][...] = 99.0  # the state is a copy
            second = AdamW(parts)
            second.load_state_dict(state)
        for parameters, optimizer in ((straight, first), (parts, second)):
            set_gradients(parameters, step)
            optimizer.step()
    assert second.step_count == 4
    for a, b in zip(straight, parts, strict=True):
        assert np.array_equal(a.data, b.data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"m": [np.zeros(3)]}, r"'m' has shapes \[\(3,\)\], but the parameters have \[\(2, 2\)\]"),
        ({"v": []}, r"'v' has shapes \[\]"),
        ({"v": [1.0]}, r"'v' has shapes \[\(\)\]"),
        ({"v": [[["a"] * 2] * 2]}, "'v' must be real floats"),
        ({"v": [[[1.0], [1.0, 2.0]]]}, "'v' must be real floats"),
        ({"m": [np.ones((2, 2), dtype=complex)]}, "'m' must be real floats"),
        ({"step_count": -1}, "step_count=-1 must be at least 0"),
    ],
)
def test_a_state_of_other_parameters_is_refused(change, message):
    optimizer = AdamW([Parameter(np.ones((2, 2)))])
    wrong = {"step_count": 3, "m": [np.ones((2, 2))], "v": [np.ones((2, 2))], **change}
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(wrong)
    assert optimizer.step_count == 0 and not optimizer.m[0].any() and not optimizer.v[0].any()
    with pytest.raises(ValueError, match="optimizer state has no step_count, v"):
        optimizer.load_state_dict({"m": wrong["m"]})


@pytest.mark.parametrize("state", ["x", None, [], 5])
def test_a_state_of_another_type_is_refused(state):
    optimizer = AdamW([Parameter(np.ones((2, 2)))])
    with pytest.raises(TypeError, match=r"state must be a Mapping, not .*; pass a dict as state"):
        optimizer.load_state_dict(state)
    with pytest.raises(TypeError, match="optimizer state 'm' must be a list, not"):
        optimizer.load_state_dict({"step_count": 1, "m": {"0": state}, "v": []})
    assert optimizer.step_count == 0


def test_any_leaf_that_requires_a_gradient_may_be_optimized():
    x = Tensor([3.0], requires_grad=True)
    (x * x).backward()
    SGD([x], lr=0.5).step()
    assert x.data.tolist() == [0.0]


def test_adamw_with_threads_has_the_same_bits(monkeypatch):
    monkeypatch.setattr(optim, "_LARGE", 100)
    results, names = [], set()
    change = AdamW._change

    def noted(*args):
        names.add(threading.current_thread().name)
        change(*args)

    monkeypatch.setattr(AdamW, "_change", noted)
    for n in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", n)
        rng = np.random.default_rng(0)
        shapes = [(400, 300), (70_000,), (300, 300), (5,), (6,)]
        parameters = [Parameter(rng.standard_normal(shape)) for shape in shapes]
        optimizer = AdamW(parameters)
        for _ in range(3):
            for p in parameters:
                p.grad = rng.standard_normal(p.shape)
            optimizer.step()
        results.append([p.data for p in parameters])
        assert (names == {threading.main_thread().name}) == (n == "1")
    for one, two in zip(*results, strict=True):
        assert np.array_equal(one, two)


def test_small_models_need_no_threads_and_a_pack_has_at_most_a_block(
    monkeypatch,
):
    used = []
    monkeypatch.setattr(optim.work, "side_by_side", lambda tasks, threads: used.append(threads))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    for shapes, threads in (((BLOCK // 2, 5) * 2, 1), ((5, 2**20 + 1), 3)):
        optimizer = AdamW([Parameter(np.zeros(n, np.float32)) for n in shapes])
        optimizer.step()
        assert used.pop() == threads
        for pack in optimizer._packs:
            assert pack.m.size <= BLOCK or len(pack.members) == 1


# -- clipping ------------------------------------------------------------------------------------


@given(seed=SEEDS, size=st.floats(1e-3, 1e3), max_norm=st.floats(1e-2, 1e2))
def test_clipping_keeps_the_direction_and_bounds_the_norm(seed, size, max_norm):
    parameters = make_parameters()
    set_gradients(parameters, seed, size)
    before = [p.grad.copy() for p in parameters]
    norm = clip_grad_norm(parameters, max_norm)
    flat = np.concatenate([g.ravel() for g in before])
    after = np.concatenate([p.grad.ravel() for p in parameters])
    assert_close(norm, np.linalg.norm(flat))
    assert np.linalg.norm(after) <= min(norm, max_norm) * (1 + 1e-12)  # rounding
    assert_close(after * norm, flat * np.linalg.norm(after))


@needs("torch")
@given(seed=SEEDS, size=st.floats(1e-3, 1e3), max_norm=st.floats(1e-2, 1e2))
def test_clipping_equals_torchs(seed, size, max_norm):
    parameters = make_parameters()
    set_gradients(parameters, seed, size)
    theirs = as_torch(parameters)
    for parameter, other in zip(parameters, theirs, strict=True):
        other.grad = torch.from_numpy(parameter.grad.copy())
    norm = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    assert_close(clip_grad_norm(parameters, max_norm), float(norm))
    for parameter, other in zip(parameters, theirs, strict=True):
        assert_close(parameter.grad, other.grad.numpy())


def test_clipping_takes_numbers_and_more_entries_than_a_float32_sum_can():
    number, many = Parameter(np.float32(0.0)), Parameter(np.zeros(100 * BLOCK, np.float32))
    number.grad, many.grad = np.array(3.0, np.float32), np.full(100 * BLOCK, 0.01, np.float32)
    squares = 9.0 + 100 * BLOCK * float(np.float32(0.01)) ** 2
    np.testing.assert_allclose(clip_grad_norm([number, many], 1.0), math.sqrt(squares), rtol=1e-5)
    np.testing.assert_allclose(number.grad, 3.0 / math.sqrt(squares), rtol=1e-5)


def test_clipping_leaves_small_gradients_as_they_are():
    parameters = make_parameters()
    set_gradients(parameters, 0, 1e-3)
    before = [p.grad for p in parameters]
    norm = clip_grad_norm(iter(parameters), 1.0)
    assert norm < 1.0 and all(p.grad is g for p, g in zip(parameters, before, strict=True))


def test_clipping_counts_a_tied_parameter_once_and_skips_those_without_gradient():
    tied, other = Parameter(np.zeros(2)), Parameter(np.zeros(2))
    tied.grad = np.array([3.0, 4.0])
    assert clip_grad_norm([tied, other, tied], 2.5) == 5.0
    assert other.grad is None
    np.testing.assert_allclose(tied.grad, [1.5, 2.0], rtol=1e-6)  # the 1e-6 in the formula


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_clipping_refuses_gradients_that_are_not_finite(bad):
    parameters = make_parameters()
    set_gradients(parameters, 0, 100.0)
    parameters[1].grad[2] = bad
    before = [p.grad.copy() for p in parameters]
    message = f"gradient norm is {bad}; lower the learning rate"
    with pytest.raises(FloatingPointError, match=message):
        clip_grad_norm(parameters, 1.0)
    for parameter, g in zip(parameters, before, strict=True):
        assert np.array_equal(parameter.grad, g, equal_nan=True)


@pytest.mark.parametrize(
    ("dtype", "size"),
    [(np.float32, size) for size in (1e-44, 1e-40, 1e-25, 1e-16, 1.0, 1e19, 1e38)]
    + [(np.float64, size) for size in (1e-310, 1e-200, 1e-25, 1.0, 1e200, 1e300)],
)
def test_the_norm_is_right_for_gradients_of_every_size(dtype, size):
    parameters = [Parameter(np.zeros(shape, dtype)) for shape in ((), (2, 3), (BLOCK + 7,))]
    rng = np.random.default_rng(0)
    for p in parameters:
        p.grad = np.asarray(rng.uniform(-3.0, 3.0, p.shape) * dtype(size), dtype)
    before = [p.grad.astype(np.longdouble) for p in parameters]
    right = math.sqrt(sum(float(np.sum((g / size) ** 2)) for g in before))
    with np.errstate(all="raise"):
        norm = clip_grad_norm(parameters, 1.0)
    assert norm / size == pytest.approx(right, rel=1e-5)  # float32 sums of up to a block of terms
    factor = min(1.0, 1.0 / (norm + 1e-6))
    rounding = 4 * np.finfo(dtype).eps
    for p, g in zip(parameters, before, strict=True):
        assert p.grad.dtype == dtype
        np.testing.assert_allclose(p.grad, np.float64(g * factor), rtol=rounding)


def test_a_norm_that_no_float_can_hold_is_an_error():
    parameter = Parameter(np.zeros(4))
    parameter.grad = np.full(4, 1e308)
    with pytest.raises(FloatingPointError, match="norm is inf; lower the learning rate"):
        clip_grad_norm([parameter], 1.0)


def test_gradients_of_0_have_norm_0():
    parameter = Parameter(np.zeros(3))
    assert clip_grad_norm([parameter], 1.0) == 0.0  # no gradient at all
    parameter.grad = np.zeros(3)
    assert clip_grad_norm([parameter], 1.0) == 0.0


def test_a_generator_of_parameters_that_is_used_up_is_refused():
    parameters = make_parameters()
    set_gradients(parameters, 0, 100.0)
    generator = (p for p in parameters)
    AdamW(generator)
    with pytest.raises(ValueError, match="at least one parameter, e.g. model.parameters()"):
        clip_grad_norm(generator, 1.0)


@each_optimizer
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_underflow_in_a_step_is_not_an_error(name, dtype):
    info = np.finfo(dtype)
    results = []
    for state in ("raise", "ignore"):
        parameter = Parameter(np.full((3, 4), info.tiny, dtype))
        optimizer, rng = OPTIMIZERS[name][0]([parameter]), np.random.default_rng(0)
        with np.errstate(all=state):
            for size in (1.0, float(info.tiny), 0.0, 0.0):
                parameter.grad = (size * rng.uniform(1.0, 2.0, (3, 4))).astype(dtype)
                clip_grad_norm([parameter], 1e-30)
                optimizer.step()
        results.append(parameter.data)
    assert np.array_equal(*results) and np.isfinite(results[0]).all()


# -- settings ------------------------------------------------------------------------------------

NO_NUMBERS = (math.nan, math.inf, -math.inf, -0.1, "0.1", None, True, 1j, [0.1], np.array([0.1]))
SETTINGS = {
    "lr": NO_NUMBERS,
    "weight_decay": NO_NUMBERS,
    "eps": (*NO_NUMBERS, 0.0),
    "momentum": (*NO_NUMBERS, 1.0),
    "step_count": (-1, 1.5, math.nan, "1", None, True),
    "betas": [(bad, 0.9) for bad in (*NO_NUMBERS, 1.0)]
    + [(0.9, bad) for bad in (*NO_NUMBERS, 1.0)]
    + [0.9, None, "ab", (), (0.9,), (0.9, 0.99, 0.999)],
}


@pytest.mark.parametrize(
    ("name", "setting"),
    [("AdamW", name) for name in ("lr", "betas", "eps", "weight_decay", "step_count")]
    + [("SGD with momentum", name) for name in ("lr", "momentum")],
)
def test_settings_are_checked_whenever_they_are_set(name, setting):
    optimizer = OPTIMIZERS[name][0](make_parameters())
    before = getattr(optimizer, setting)
    for bad in SETTINGS[setting]:
        with pytest.raises(
            (TypeError, ValueError), match="beta" if setting == "betas" else setting
        ):
            setattr(optimizer, setting, bad)
        assert getattr(optimizer, setting) == before


def test_settings_become_plain_numbers():
    adamw, sgd = AdamW(make_parameters()), SGD(make_parameters(), lr=0.1)
    adamw.lr, adamw.betas, adamw.step_count = np.float32(0.5), [0, np.float64(0.25)], np.int64(3)
    sgd.momentum = 0
    settings = (adamw.lr, *adamw.betas, adamw.step_count, sgd.momentum)
    assert settings == (0.5, 0.0, 0.25, 3, 0.0)
    assert [type(value) for value in settings] == [float, float, float, int, float]


# -- schedule ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["max_lr", "min_lr", "warmup_steps", "total_steps", "step"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -1, "1", None, True, 1j])
def test_every_argument_of_the_schedule_is_checked(name, bad):
    arguments = {"step": 0, **SCHEDULE, name: bad}
    with pytest.raises((TypeError, ValueError), match=f"{name}( must be a|={bad})"):
        cosine_schedule(**arguments)


def test_a_schedule_of_the_largest_rates_does_not_overflow():
    largest = float(np.finfo(np.float64).max)
    options = {"max_lr": largest, "min_lr": 0.0, "warmup_steps": 8, "total_steps": 10}
    assert cosine_schedule(7, **options) == largest
    assert cosine_schedule(3, **options) == largest / 2


@given(
    warmup=st.integers(0, 20),
    decay=st.integers(1, 40),
    max_lr=st.floats(1e-5, 1.0),
    share=st.floats(0.0, 1.0),
)
def test_the_schedule_rises_linearly_then_falls_as_half_a_cosine(warmup, decay, max_lr, share):
    total, min_lr = warmup + decay, share * max_lr
    lr = [
        cosine_schedule(step, max_lr=max_lr, min_lr=min_lr, warmup_steps=warmup, total_steps=total)
        for step in range(total + 3)
    ]
    assert_close(lr[:warmup], [max_lr * (step + 1) / warmup for step in range(warmup)])
    assert_close(lr[warmup], max_lr)
    assert lr[total:] == [min_lr] * 3
    options = {"max_lr": max_lr, "min_lr": min_lr, "warmup_steps": warmup, "total_steps": warmup}
    assert cosine_schedule(warmup, **options) == min_lr  # every step is warm-up
    falling = np.array(lr[warmup : total + 1])
    assert (np.diff(falling) <= 1e-15).all()
    assert_close(falling + falling[::-1], np.full(decay + 1, max_lr + min_lr))  # point symmetry


# -- errors --------------------------------------------------------------------------------------

P = Parameter(np.zeros((2, 2)))
SCHEDULE = {"max_lr": 1.0, "min_lr": 0.1, "warmup_steps": 2, "total_steps": 6}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: AdamW([]), ValueError, "at least one parameter"),
        (lambda: SGD(iter(()), lr=0.1), ValueError, "at least one parameter"),
        (lambda: AdamW([P], lr=-1.0), ValueError, "lr=-1.0 must be at least 0"),
        (lambda: AdamW([P], lr="big"), TypeError, "lr must be a number, not 'big'"),
        (lambda: AdamW([P], betas=(1.0, 0.9)), ValueError, r"beta1=1.0 must lie in \[0, 1\)"),
        (lambda: AdamW([P], betas=(0.9, -0.1)), ValueError, r"beta2=-0.1 must lie in \[0, 1\)"),
        (lambda: AdamW([P], eps=0), ValueError, "eps=0.0 must be positive"),
        (lambda: AdamW([P], weight_decay=math.nan), ValueError, "weight_decay=nan"),
        (lambda: AdamW(P), TypeError, "expected Parameters"),
        (lambda: SGD(P, lr=0.1), TypeError, "expected Parameters"),
        (lambda: clip_grad_norm(P, 1.0), TypeError, "expected Parameters"),
        (lambda: AdamW(None), TypeError, "model.parameters.*not NoneType"),
        (lambda: SGD(5, lr=0.1), TypeError, "model.parameters.*not int"),
        (lambda: AdamW("abc"), TypeError, "model.parameters.*not str"),
        (lambda: clip_grad_norm(0.5, 1.0), TypeError, "model.parameters.*not float"),
        (lambda: AdamW([("p", P)]), TypeError, "model.parameters.*not tuple"),
        (lambda: AdamW([np.ones(3)]), TypeError, "not ndarray"),
        (lambda: AdamW([Tensor([1.0])]), TypeError, "requires_grad=True, not Tensor"),
        (lambda: SGD([P * 2.0], lr=0.1), TypeError, "other leaf Tensors"),
        (lambda: cosine_schedule(-1, **SCHEDULE), ValueError, "step=-1 must be at least 0"),
        (lambda: cosine_schedule(0, **{**SCHEDULE, "warmup_steps": 7}), ValueError, "at most.*=6"),
        (lambda: cosine_schedule(0, **SCHEDULE | {"warmup_steps": 0.5}), TypeError, "warmup_steps"),
        (
            lambda: cosine_schedule(0, **SCHEDULE | {"min_lr": 2.0}),
            ValueError,
            "min_lr=2.0.* most 1",
        ),
        (lambda: clip_grad_norm([], 1.0), ValueError, "at least one parameter"),
        (lambda: AdamW([P], betas=0.9), TypeError, "betas must be two numbers.*not 0.9"),
        (lambda: SGD([P], lr=math.inf), ValueError, "lr=inf"),
        (lambda: SGD([P], lr=0.1, momentum=1.0), ValueError, "momentum=1.0"),
        (lambda: clip_grad_norm([P], 0.0), ValueError, "max_norm=0.0 must be positive"),
    ],
)
def test_nonsense_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_training_lowers_the_loss_of_a_batch():
    """A short check of all parts together; the tests above check exact values."""
    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=16, n_layer=1, n_head=2)
    model = cases.random_model(config, dtype=np.float32)
    optimizer = AdamW(model.parameters(), lr=1e-2)
    rng = np.random.default_rng(0)
    ids, targets = rng.integers(0, 11, (2, 4, 8))
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(model.eval()(ids), targets)
        loss.backward()
        clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_underflow_in_a_training_step_is_not_an_error(dtype):
    """With weights this large, most attention weights and probabilities underflow."""
    config = GPT2Config(11, n_positions=8, n_embd=16, n_layer=2, n_head=2)
    ids, targets = np.random.default_rng(0).integers(0, 11, (2, 4, 8))
    results = []
    for state in ("raise", "ignore"):
        model = cases.random_model(config, dtype=dtype)
        for parameter in model.parameters():
            parameter.data *= 100.0
        optimizer = AdamW(model.parameters(), lr=1e-2)
        with np.errstate(under=state, over=state, invalid=state, divide=state):
            for _ in range(3):
                model.loss(ids, targets).backward()
                clip_grad_norm(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        results.append([parameter.data for parameter in model.parameters()])
    for raised, ignored in zip(*results, strict=True):
        assert np.array_equal(raised, ignored) and np.isfinite(raised).all()
