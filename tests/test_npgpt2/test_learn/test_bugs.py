"""The catalogue of bugs, and which detector catches which: a mutation test of the detectors."""

from __future__ import annotations

import inspect
import traceback
from pathlib import Path

import numpy as np
import pytest

from autograd import Tensor
from autograd import tensor as ops
from npgpt2 import AdamW
from npgpt2 import functional as F
from npgpt2.learn import bugs, museum
from npgpt2.learn.bugs import BUGS, Bug, parse
from npgpt2.learn.detectors import DETECTORS, measure
from tests.optional import has, needs
from tests.test_npgpt2 import cases

if has("torch"):
    import torch

    from tests.test_npgpt2 import torch_gpt2

DOCUMENT = Path(__file__).parents[2] / "bugs.md"
each_bug = pytest.mark.parametrize("name", BUGS)
SOFTMAX = BUGS["softmax-unweighted-mean"]


# -- the oracle as a detector ----------------------------------------------------------------------


def equality_with_torch():
    """Train three steps: compare logits, loss, each gradient by name, and the final weights."""
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


def assert_equal(ours, theirs):
    """Compare to 7 digits, or 1e-9 of the largest entry: Adam enlarges rounding errors."""
    assert list(ours) == list(theirs)
    for name, expected in theirs.items():
        assert np.allclose(ours[name], expected, 1e-7, 1e-9 * np.abs(expected).max()), name


ALL_DETECTORS = DETECTORS | ({"torch": equality_with_torch} if has("torch") else {})
each_detector = pytest.mark.parametrize("detector", ALL_DETECTORS)


# -- the matrix ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def matrix():
    """Measure every bug with every detector, once. One thread is enough for tiny arrays."""
    if has("torch"):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
    yield measure(BUGS.values(), ALL_DETECTORS)
    if has("torch"):
        torch.set_num_threads(threads)


def caught(matrix, detector):
    return {bug for bug, row in matrix.items() if row[detector]}


@each_detector
def test_the_right_code_is_accepted(detector):
    ALL_DETECTORS[detector]()


def test_every_bug_is_caught_by_a_fast_detector(matrix):
    fast = ("random cotangent", "complex step", "twin", "statements")
    assert matrix.keys() == BUGS.keys()
    assert matrix.keys() - set.union(*(caught(matrix, name) for name in fast)) == set()


def test_shapes_show_few_bugs(matrix):
    assert caught(matrix, "shapes") == {
        "gelu-float64-buffer",
        "linear-dx-untransposed",
        "ln-f-forgotten",
        "positions-forgotten",
        "tie-as-view",
    }


def test_with_most_bugs_the_loss_goes_down(matrix):
    assert caught(matrix, "loss goes down") == {
        "cross-entropy-target-forgotten",
        "dropout-keeps-p",
        "gelu-float64-buffer",
        "linear-dx-untransposed",
        "positions-shifted",
        "tie-as-view",
    }


def test_a_cotangent_of_ones_misses_wrong_gradients(matrix):
    """These bugs forget the cotangent or permute it, or they need several ops."""
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


BY_COMPLEX_NUMBERS = {"gelu-erf", "gelu-float64-buffer"}  # these raise for complex inputs

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


def test_what_gradient_checks_cannot_see(matrix):
    """These bugs have right gradients of a wrong function, or change code without a gradient."""
    missed = BUGS.keys() - caught(matrix, "random cotangent")
    assert missed == set(MISSED_BY_GRADIENT_CHECKS.split())
    # A complex step needs complex inputs, and no kinks.
    assert BUGS.keys() - caught(matrix, "complex step") == missed - BY_COMPLEX_NUMBERS | {
        "max-all-ties"
    }


def test_some_bugs_are_seen_by_one_kind_of_detector_only(matrix):
    alone = {name: set() for name in DETECTORS}
    for bug, row in matrix.items():
        by = [name for name in DETECTORS if row[name]]
        if len(by) == 1:
            alone[by[0]].add(bug)
    assert alone["twin"] == {"mean-of-everything"}
    assert not any(alone[name] for name in ("shapes", "sum", "loss goes down"))
    assert {"engine-recursive", "mlp-without-gelu", "decay-of-biases"} <= alone["statements"]


CAUGHT_BY_TORCH = """
engine-assigns engine-pre-order unbroadcast-averages linear-dx-untransposed linear-dw-reshaped
linear-bias-mean embedding-overwrites layer-norm-mean-term layer-norm-variance-term
layer-norm-rstd-forgotten layer-norm-gain-forgotten layer-norm-dw-of-shift layer-norm-unbiased
layer-norm-no-eps layer-norm-eps-outside gelu-cubic-coefficient gelu-erf gelu-chain-rule-3
gelu-product-rule attention-scale-n-embd attention-backward-unscaled attention-dk-untransposed
attention-dv-untransposed attention-dq-dk-swapped attention-qkv-order attention-qkv-interleaved
attention-heads-not-swapped-back mask-off-by-one mask-forgotten mask-after-softmax
mask-not-in-backward cross-entropy-mean-over-all cross-entropy-backward-not-averaged
cross-entropy-target-forgotten cross-entropy-ignored-get-gradient cross-entropy-in-bits
mlp-without-gelu attention-residual-forgotten mlp-residual-forgotten norm-after-the-sum
positions-forgotten positions-shifted ln-f-forgotten tie-without-head tie-without-embedding
tie-as-copy tie-as-view tie-counted-twice blocks-in-a-plain-list adam-step-per-parameter
adam-no-bias-correction adam-betas-swapped adam-eps-under-the-root decay-of-biases decay-coupled
decay-without-lr
"""


@needs("torch")
def test_what_equality_with_torch_shows(matrix):
    """It catches no bug in ops that a training step of GPT-2 does not use."""
    assert caught(matrix, "torch") == set(CAUGHT_BY_TORCH.split())


def test_the_document_shows_what_is_measured(matrix):
    """This writes it again: npgpt2 museum --write tests/bugs.md."""
    measured = {bug: {name: row[name] for name in DETECTORS} for bug, row in matrix.items()}
    assert DOCUMENT.read_text(encoding="utf-8") == museum.document(measured)


def test_the_right_code_is_accepted_after_all_bugs(matrix):
    for detector in ALL_DETECTORS.values():
        detector()


# -- injection -------------------------------------------------------------------------------------


@each_bug
def test_a_bug_changes_the_code_and_is_undone(name):
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


def test_every_alias_has_the_bug():
    x = Tensor([1.0, -2.0], requires_grad=True)
    f, method = ops.tanh, Tensor.tanh
    with BUGS["tanh-forgets-cotangent"].injected():
        for tanh in (f, method, Tensor.tanh):
            np.testing.assert_allclose(tanh(x).vjp([0.0, 0.0])[0], 1.0 - np.tanh(x.data) ** 2)
    assert not f(x).vjp([0.0, 0.0])[0].any()


def test_bugs_can_be_nested():
    code = F.softmax.__code__
    inner = BUGS["softmax-changes-its-input"]
    x = Tensor([0.0, 1.0], requires_grad=True)
    with SOFTMAX.injected(), BUGS["tanh-forgets-cotangent"].injected():
        outer_code = F.softmax.__code__
        with inner.injected():  # both bugs: the inner one changes the source with the outer one
            assert F.softmax(x).vjp([1.0, 0.0])[0].sum() != 0.0
            assert x.data.tolist() != [0.0, 1.0]
        assert F.softmax.__code__ is outer_code
    assert F.softmax.__code__ is code


def test_a_traceback_shows_the_wrong_line():
    with BUGS["linear-dx-untransposed"].injected():
        out = F.linear(Tensor(np.ones((1, 2)), True), Tensor(np.ones((3, 2)), True))
        with pytest.raises(ValueError) as error:
            out.backward(np.ones((1, 3)))
        shown = "".join(traceback.format_exception(error.value))
    assert 'File "<bug linear-dx-untransposed>"' in shown
    assert "dx = (g @ w.T).reshape(shape)" in shown


@pytest.mark.parametrize(
    ("hunk", "times"),
    [
        ("-    no such line\n+    other", "0"),
        ("-    p = _softmax_inplace", "0"),  # only a part of a line
        ("-", r"\d+"),  # the blank lines
        ("+    only_added = 1", r"\d+"),  # fits everywhere
    ],
)
def test_lines_that_do_not_occur_once_are_an_error(hunk, times):
    code = F.softmax.__code__
    bug = Bug("unclear", F.softmax, (hunk,), "No lesson.")
    message = f"bug unclear: functional.softmax must contain .* exactly once, not {times} times"
    with pytest.raises(ValueError, match=message), bug.injected():
        pass
    assert F.softmax.__code__ is code


def test_a_bug_that_does_not_compile_changes_nothing():
    code = F.softmax.__code__
    hunk = "-    p = _softmax_inplace(x.data.copy())\n+    p = _softmax_inplace(("
    with pytest.raises(SyntaxError), Bug("unbalanced", F.softmax, (hunk,), "None.").injected():
        pass
    assert F.softmax.__code__ is code


# -- the text files --------------------------------------------------------------------------------


def test_the_diff_shows_what_changed():
    assert SOFTMAX.diff().splitlines() == [
        "--- functional.softmax",
        "+++ softmax-unweighted-mean",
        "-        return (p * (g - np.sum(g * p, axis=-1, keepdims=True)),)",
        "+        return (p * (g - np.mean(g, axis=-1, keepdims=True)),)",
    ]


def test_context_lines_and_several_places_are_shown_as_they_are_written():
    entry = """
both-places  npgpt2.functional:softmax
     x = as_tensor(x)
+    y = x
...
-        return (p * (g - np.sum(g * p, axis=-1, keepdims=True)),)
+        return (g,)
The first line of the lesson,
- and the second."""
    (bug,) = parse(entry)
    assert bug.lesson == "The first line of the lesson, - and the second."
    assert len(bug.hunks) == 2
    assert bug.diff().splitlines()[2:] == entry.splitlines()[2:-2]
    _, source = bug.sources()
    assert "    x = as_tensor(x)\n    y = x\n" in source and "return (g,)\n" in source


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("name\n-a\nLesson.", "bug 'name': write a name and a module:function"),
        ("name npgpt2.functional:gelu\nLesson.", "then the changed lines, then a lesson"),
        ("name npgpt2.functional:gelu\n-a", "then the changed lines, then a lesson"),
        ("name npgpt2.functional:relu\n-a\nLesson.", "name: there is no .* npgpt2.functional:relu"),
        ("name npgpt3.functional:gelu\n-a\nLesson.", "name: there is no .* npgpt3.functional:gelu"),
    ],
)
def test_an_entry_that_lacks_a_part_is_an_error(entry, message):
    with pytest.raises(ValueError, match=message):
        list(parse(entry))


def test_names_are_unique(monkeypatch):
    monkeypatch.setattr(bugs, "_FILES", ("ops", "ops"))
    with pytest.raises(ValueError, match="two bugs called sub-sign; rename one"):
        bugs._read()
