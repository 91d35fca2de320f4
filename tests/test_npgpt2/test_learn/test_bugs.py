"""The catalogue of bugs, and which detector sees which: a mutation test of the detectors."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from autograd import Tensor
from autograd import tensor as ops
from npgpt2 import AdamW
from npgpt2 import functional as F
from npgpt2.learn.bugs import BUGS, Bug
from npgpt2.learn.detectors import DETECTORS, Matrix, format_matrix, measure
from tests.optional import has, needs
from tests.test_npgpt2 import cases

if has("torch"):
    import torch

    from tests.test_npgpt2 import torch_gpt2

README = Path(__file__).parents[3] / "README.md"
each_bug = pytest.mark.parametrize("name", BUGS)
SOFTMAX = BUGS["softmax-unweighted-mean"]


# -- the oracle as a detector ----------------------------------------------------------------------


def equality_with_torch() -> None:
    """Three steps of training: logits, loss and every gradient by name, and then the weights."""
    config = cases.random_config(0, n_layer=1)
    model = cases.random_model(config, 0)
    oracle = torch_gpt2.load(config, model.state_dict())
    optimizer = AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    groups = [
        {"params": [p for p in oracle.parameters() if p.ndim == 2], "weight_decay": 0.1},
        {"params": [p for p in oracle.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    torch_optimizer = torch.optim.AdamW(groups, lr=0.01)
    batch = cases.random_batch(config, 0)
    for _ in range(3):
        assert_equal(cases.run(model, *batch), torch_gpt2.run_torch(oracle, *batch))
        optimizer.step()
        torch_optimizer.step()
    weights = {name: p.detach().numpy() for name, p in oracle.named_parameters()}
    assert_equal(model.state_dict(), weights)


def assert_equal(ours: dict[str, NDArray], theirs: dict[str, NDArray]) -> None:
    """To 7 digits, or to 9 of the largest entry: Adam divides by small gradients' rounding."""
    assert list(ours) == list(theirs)
    for name, expected in theirs.items():
        assert np.allclose(ours[name], expected, 1e-7, 1e-9 * np.abs(expected).max()), name


ALL_DETECTORS = DETECTORS | ({"torch": equality_with_torch} if has("torch") else {})
each_detector = pytest.mark.parametrize("detector", ALL_DETECTORS)


# -- the matrix ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def matrix() -> Iterator[Matrix]:
    """Every bug against every detector, once; on one thread, as all arrays are tiny."""
    if has("torch"):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
    yield measure(BUGS.values(), ALL_DETECTORS)
    if has("torch"):
        torch.set_num_threads(threads)


def caught(matrix: Matrix, detector: str) -> set[str]:
    return {bug for bug, row in matrix.items() if row[detector]}


@each_detector
def test_the_right_code_is_accepted(detector: str) -> None:
    ALL_DETECTORS[detector]()


def test_every_bug_is_caught_by_a_fast_detector(matrix: Matrix) -> None:
    fast = ("random cotangent", "complex step", "twin", "properties")
    assert matrix.keys() == BUGS.keys()
    assert matrix.keys() - set.union(*(caught(matrix, name) for name in fast)) == set()


def test_shapes_show_few_bugs(matrix: Matrix) -> None:
    assert caught(matrix, "shapes") == {
        "gelu-float64-buffer",
        "linear-dx-untransposed",
        "ln-f-forgotten",
        "positions-forgotten",
        "tie-as-view",
    }


def test_with_most_bugs_the_loss_goes_down(matrix: Matrix) -> None:
    assert caught(matrix, "loss goes down") == {
        "cross-entropy-target-forgotten",
        "dropout-keeps-p",
        "gelu-float64-buffer",
        "linear-dx-untransposed",
        "positions-shifted",
        "tie-as-view",
    }


def test_a_cotangent_of_ones_misses_wrong_gradients(matrix: Matrix) -> None:
    """They forget their cotangent, or permute it, or have to do with several ops at once."""
    by_sum, by_random = caught(matrix, "sum"), caught(matrix, "random cotangent")
    assert by_sum <= by_random
    assert by_random - by_sum == {
        "cross-entropy-forgets-cotangent",
        "engine-adds-in-place",
        "engine-pre-order",
        "exp-forgets-cotangent",
        "positions-shifted",
        "softmax-changes-its-input",
        "softmax-unweighted-mean",
        "softmax-zero-gradient",
        "swapaxes-reshaped",
        "tanh-forgets-cotangent",
        "tie-without-embedding",
        "tie-without-head",
    }


BY_COMPLEX_NUMBERS = {"gelu-erf", "gelu-float64-buffer"}  # which they do not take

MISSED_BY_GRADIENT_CHECKS = """
engine-recursive engine-walks-every-path grad-assigned grad-not-owned
gradcheck-compares-with-itself mean-of-everything embedding-negative-ids layer-norm-no-eps
gelu-cubic-coefficient gelu-erf gelu-float64-buffer dropout-unscaled dropout-keeps-p
attention-scale-n-embd attention-qkv-order attention-qkv-interleaved mask-off-by-one
mask-forgotten cross-entropy-mean-over-all dropout-in-eval attention-dropout-in-eval
eval-of-the-top-only validation-leaves-eval layer-norm-eps-ignored mlp-without-gelu
attention-residual-forgotten mlp-residual-forgotten norm-after-the-sum positions-forgotten
positions-wrap-around ln-f-forgotten tie-as-copy tie-as-view tie-counted-twice tie-lost-on-load
load-without-copy state-without-copy blocks-in-a-plain-list residual-init-unscaled
zero-grad-does-nothing optimizer-steps-twice adam-step-per-parameter adam-no-bias-correction
adam-betas-swapped adam-eps-under-the-root decay-of-biases decay-coupled decay-without-lr
resume-without-step-count resume-without-moments sgd-damped-momentum clip-each-tensor
clip-also-enlarges clip-sums-norms schedule-starts-at-0 schedule-jumps schedule-rises-again
targets-not-shifted validation-seen-in-training generate-from-row-0 temperature-0-divides
top-k-past-the-vocabulary top-p-one-too-few generate-previous-position generate-from-the-padding
padding-stays-in-the-cache sliding-window-keeps-the-oldest cache-positions-start-anew
cache-overwritten cache-mask-of-a-start cache-without-mask
"""


def test_what_gradient_checks_cannot_see(matrix: Matrix) -> None:
    """Right gradients of the wrong function, and all that has no gradient."""
    missed = BUGS.keys() - caught(matrix, "random cotangent")
    assert missed == set(MISSED_BY_GRADIENT_CHECKS.split())
    # A complex step needs ops that take complex numbers, and no kinks.
    assert BUGS.keys() - caught(matrix, "complex step") == missed - BY_COMPLEX_NUMBERS | {
        "max-all-ties"
    }


def test_some_bugs_are_seen_by_one_kind_of_detector_only(matrix: Matrix) -> None:
    alone = {name: set() for name in DETECTORS}
    for bug, row in matrix.items():
        by = [name for name in DETECTORS if row[name]]
        if len(by) == 1:
            alone[by[0]].add(bug)
    assert alone["twin"] == {"mean-of-everything"}
    assert not any(alone[name] for name in ("shapes", "sum", "loss goes down"))
    assert {"engine-recursive", "mlp-without-gelu", "decay-of-biases"} <= alone["properties"]


@needs("torch")
def test_the_readme_shows_what_is_measured(matrix: Matrix) -> None:
    assert format_matrix(matrix) in README.read_text(encoding="utf-8")


def test_the_right_code_is_accepted_after_all_bugs(matrix: Matrix) -> None:
    for detector in ALL_DETECTORS.values():
        detector()


# -- injection -------------------------------------------------------------------------------------


@each_bug
def test_a_bug_changes_the_code_and_is_undone(name: str) -> None:
    bug = BUGS[name]
    original, source = bug.sources()
    before = bug.function.__code__
    assert original != source and bug.name == name and bug.lesson.endswith(".")
    with pytest.raises(KeyError, match="inside"), bug.injected():
        assert bug.function.__code__ != before
        assert inspect.getsource(bug.function) == source
        raise KeyError("inside")
    assert bug.function.__code__ is before
    assert inspect.getsource(bug.function) != source


def test_every_alias_has_the_bug() -> None:
    x = Tensor([1.0, -2.0], requires_grad=True)
    f, method = ops.tanh, Tensor.tanh
    with BUGS["tanh-forgets-cotangent"].injected():
        for tanh in (f, method, Tensor.tanh):
            np.testing.assert_allclose(tanh(x).vjp([0.0, 0.0])[0], 1.0 - np.tanh(x.data) ** 2)
    assert not f(x).vjp([0.0, 0.0])[0].any()


def test_bugs_can_be_nested() -> None:
    code = F.softmax.__code__
    inner = BUGS["softmax-changes-its-input"]
    x = Tensor([0.0, 1.0], requires_grad=True)
    with SOFTMAX.injected(), BUGS["tanh-forgets-cotangent"].injected():
        outer_code = F.softmax.__code__
        with inner.injected():  # both, as one starts from what the other left
            assert F.softmax(x).vjp([1.0, 0.0])[0].sum() != 0.0
            assert x.data.tolist() != [0.0, 1.0]
        assert F.softmax.__code__ is outer_code
    assert F.softmax.__code__ is code


def test_a_traceback_shows_the_wrong_line() -> None:
    with BUGS["linear-dx-untransposed"].injected():
        out = F.linear(Tensor(np.ones((1, 2)), True), Tensor(np.ones((3, 2)), True))
        with pytest.raises(ValueError) as error:
            out.backward(np.ones((1, 3)))
        shown = "".join(traceback.format_exception(error.value))
    assert 'File "<bug linear-dx-untransposed>"' in shown
    assert "dx = (g @ w.T).reshape(shape)" in shown


@pytest.mark.parametrize("right", ["no such code", "p"])
def test_a_part_that_is_not_there_once_is_an_error(right: str) -> None:
    code = F.softmax.__code__
    bug = Bug("unclear", F.softmax, right, "q", "No lesson.")
    message = r"bug unclear: functional.softmax must contain this exactly once, not \d+ times"
    with pytest.raises(ValueError, match=message), bug.injected():
        pass
    assert F.softmax.__code__ is code


def test_a_bug_that_does_not_compile_changes_nothing() -> None:
    code = F.softmax.__code__
    bug = Bug("unbalanced", F.softmax, "np.sum(", "np.sum((", "No lesson.")
    with pytest.raises(SyntaxError), bug.injected():
        pass
    assert F.softmax.__code__ is code


def test_the_diff_shows_what_changed() -> None:
    assert SOFTMAX.diff().splitlines() == [
        "--- functional.softmax",
        "+++ softmax-unweighted-mean",
        "-        return (p * (g - np.sum(g * p, axis=-1, keepdims=True)),)",
        "+        return (p * (g - np.mean(g, axis=-1, keepdims=True)),)",
    ]
