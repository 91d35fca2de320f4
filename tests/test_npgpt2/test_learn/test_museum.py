"""The bugs on show: names, the matrix in parts, the small training, and its chart."""

from __future__ import annotations

import io
import math
import re
import warnings

import numpy as np
import pytest

from autograd import Tensor
from npgpt2 import functional as F
from npgpt2.learn import museum
from npgpt2.learn.bugs import BUGS, Bug
from npgpt2.learn.detectors import DETECTORS, format_matrix, measure
from npgpt2.progress import Progress


@pytest.fixture(autouse=True)
def no_bug_is_left():
    before = {bug.function: bug.function.__code__ for bug in BUGS.values()}
    yield
    assert {f: f.__code__ for f in before} == before


# -- names -----------------------------------------------------------------------------------------


def test_bugs_are_found_by_a_part_of_their_name():
    assert museum.find() == list(BUGS.values())
    assert [bug.name for bug in museum.find("tie-as")] == ["tie-as-copy", "tie-as-view"]


def test_an_unknown_name_is_an_error_with_close_names():
    with pytest.raises(ValueError, match="'gelu-erff' in its name; is it gelu-erf"):
        museum.main("gelu-erff")
    with pytest.raises(ValueError, match=f"none of the {len(BUGS)} bugs .* lists all"):
        museum.main("zzz")


# -- the matrix ------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_matrix_is_that_of_the_detectors_with_progress():
    stream, totals = Terminal(), []

    class Shown(Progress):
        def __init__(self, total):
            super().__init__(total, stream=stream)
            totals.append(total)
            self.last = -math.inf

    bugs = [BUGS["tie-as-copy"], BUGS["tie-as-view"]]
    assert museum.matrix("tie-as", Shown) == format_matrix(measure(bugs, DETECTORS))
    assert totals == [2]
    assert "step 0/2  tie-as-copy" in stream.getvalue() and stream.getvalue().endswith("\n")


def test_the_matrix_is_printed_for_a_part_of_a_name(capfd, monkeypatch):
    monkeypatch.setattr(museum, "DETECTORS", {"shapes": DETECTORS["shapes"]})
    museum.main("tie-as")
    out, err = capfd.readouterr()
    assert out.splitlines()[1:4] == [
        "tie-as-copy   .",
        "tie-as-view   x",
        "caught, of 2  1",
    ]
    assert not err


# -- one bug ---------------------------------------------------------------------------------------


def test_a_bug_is_shown_with_all_that_is_known_of_it(capfd):
    bug = BUGS["gelu-cubic-coefficient"]
    museum.main(bug.name)
    out, err = capfd.readouterr()
    assert not err  # no warning of a detector either
    assert out.startswith("gelu-cubic-coefficient, in functional.gelu\n")
    assert bug.lesson in " ".join(out.split()) and bug.diff() in out
    assert 'caught by  twin, "gelu has its published values"\n' in out
    assert "missed by  shapes, sum, loss goes down, random cotangent, complex step\n" in out
    right, wrong = museum.loss_curves(bug)
    assert museum.chart(right, wrong) in out
    assert f"first loss  {right[0]:.4f}, with the bug {wrong[0]:.4f}\n" in out
    assert f"last loss   {right[-1]:.4f}, with the bug {wrong[-1]:.4f}\n" in out
    assert out.endswith("The loss goes down with the bug too.\n")
    assert max(map(len, out.splitlines())) <= 100


def test_who_misses_a_bug_is_said_of_the_properties_as_one():
    caught, missed = museum._by_whom(BUGS["layer-norm-mean-term"])
    assert caught == ["sum", "random cotangent", "complex step", "twin"]
    assert missed == ["shapes", "loss goes down", "properties"]


def test_a_bug_outside_of_training_has_no_curve():
    shown = museum.show(BUGS["top-p-one-too-few"])
    assert shown.endswith("\n\nTraining does not run sampling._truncate: its loss tells nothing "
                          "of this bug.")  # fmt: skip
    assert "step 1 to" not in shown


def test_a_step_that_raises_is_shown():
    assert "\n\nWith the bug, step 1 raises ValueError: matmul: " in museum.show(
        BUGS["linear-dx-untransposed"]
    )
    right, wrong = museum.loss_curves(BUGS["tie-lost-on-load"], steps=4)
    assert wrong == right[:2]  # it is saved and resumed half way


def test_words_for_every_kind_of_difference():
    def said(wrong: list[float], error: str = "") -> list[str]:
        return list(museum._differences([4.0, 3.0, 2.0], wrong, error))

    numbers = ["first loss  4.0000, with the bug 4.0000", "last loss   2.0000, with the bug 2.0000"]
    assert said([4.0, 3.0, 2.0]) == [*numbers, "The curves are the same, to the last bit."]
    assert said([4.0, 3.0, 2.0 + 1e-9]) == [*numbers, "The curves differ by rounding only."]
    assert said([4.0, 3.1, 2.0])[2:] == [
        "The curves differ from step 2 on.",
        "The loss goes down with the bug too.",
    ]
    assert said([4.0, 3.1, 3.9])[2:] == ["The curves differ from step 2 on."]
    assert said([5.0, 3.1, 5.0])[2:] == [
        "The curves differ from step 1 on (before any weight has changed)."
    ]
    assert said([4.0, 3.0, math.nan]) == [
        numbers[0],
        "last loss   2.0000, with the bug nan",
        "The curves differ from step 3 on.",
        "From step 3 on the loss with the bug is not finite.",
    ]
    assert said([4.0], "KeyError: 1") == [numbers[0], "With the bug, step 2 raises KeyError: 1"]
    assert said([], "KeyError: 1") == ["With the bug, step 1 raises KeyError: 1"]


# -- the training ----------------------------------------------------------------------------------


def test_the_training_learns_and_is_the_same_every_time():
    one, other = list(museum.training()), list(museum.training())
    assert one == other and len(one) == museum.STEPS
    assert abs(one[0] - math.log(20)) < 0.1  # as many characters
    assert one[-1] < 0.4 * one[0]


@pytest.mark.parametrize(
    "name",
    ["grad-assigned", "validation-leaves-eval", "resume-without-moments", "schedule-jumps"],
)
def test_it_has_what_a_training_has(name):
    right, wrong = museum.loss_curves(BUGS[name], 20)
    assert right[0] == wrong[0] and right != wrong


def test_endless_walks_end():
    """The graph is so small that 2**n paths are few, and recursion is not deep."""
    for name in ("engine-walks-every-path", "engine-recursive"):
        right, wrong = museum.loss_curves(BUGS[name], 3)
        np.testing.assert_allclose(wrong, right, rtol=1e-9)


def test_a_loss_that_is_not_finite_and_a_warning_stay_inside():
    nan = Bug("nan", F.gelu, "a, c = 0.044715,", "a, c = np.log(-1.0),", "No lesson.")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        losses, error = museum._losses_with(nan, 3)
    assert not caught and len(losses) == 0
    assert error == "FloatingPointError: gradient norm is nan; lower the learning rate"


def test_the_bug_is_gone_when_the_training_is_interrupted(monkeypatch):
    bug = BUGS["gelu-chain-rule-3"]

    def interrupted(steps):
        assert F.gelu.__code__.co_filename == f"<bug {bug.name}>"
        F.gelu(Tensor(1.0))
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(museum, "training", interrupted)
    with pytest.raises(KeyboardInterrupt):
        museum._losses_with(bug, 3)
    assert F.gelu.__code__.co_filename.endswith("functional.py")


@pytest.mark.parametrize("steps", [0, -1, 2.5, True])
def test_a_number_of_steps_that_is_none_is_an_error(steps):
    with pytest.raises((TypeError, ValueError), match="steps"):
        museum.loss_curves(BUGS["gelu-erf"], steps)


# -- the chart -------------------------------------------------------------------------------------


def columns(drawn: str, mark: str) -> set[int]:
    """Where a mark stands, counted from the axis."""
    lines = [line.split("|", 1)[1] for line in drawn.splitlines() if "|" in line]
    return {i for line in lines for i, c in enumerate(line) if c == mark}


def test_a_chart_has_60_columns_however_many_steps_there_are():
    for n in (1, 2, 60, 500):
        right = [4.0 - 3.0 * i / 500 for i in range(n)]
        drawn = museum.chart(right, right)
        assert columns(drawn, "*") == set(range(min(n, 60))) and not columns(drawn, "x")
        assert re.search(r"\+(-+)\n", drawn).group(1) == "-" * min(n, 60)
        assert f"step 1 to {n} " in drawn


def test_what_is_not_finite_or_missing_is_left_out():
    drawn = museum.chart([3.0, 2.0, 1.0, 1.0, 1.0], [3.0, math.nan, math.inf, 2.0])
    assert columns(drawn, "*") == {0} and columns(drawn, "x") == {3}
    assert columns(drawn, ".") == {1, 2, 3, 4}
    assert " 3.00 |" in drawn and " 1.00 |" in drawn and "above" not in drawn


def test_losses_far_above_do_not_flatten_the_right_curve():
    drawn = museum.chart([3.0, 2.0, 1.0], [3.0, 1e9, 1.0])
    assert columns(drawn, "^") == {1} and drawn.endswith("^ above")
    assert " 3.75 |" in drawn and columns(drawn, ".") == {1}


def test_losses_that_are_not_finite_are_left_out_of_a_chart():
    lines = museum.chart([math.nan, 2.0], [1e7, 1.0], height=3).splitlines()
    assert [line.rstrip() for line in lines[1:4]] == [" 2.50 |^", "      | .", " 1.00 | x"]
