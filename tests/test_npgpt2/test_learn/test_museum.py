"""The museum: names of bugs, the matrix, the pages of single bugs, the training and its chart."""

from __future__ import annotations

import io
import math
import re
import warnings

import numpy as np
import pytest

from autograd import Tensor
from npgpt2 import functional as F
from npgpt2.cli import main
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
    with pytest.raises(ValueError, match="'gelu-erff' in its name; did you mean gelu-erf"):
        museum.report("gelu-erff")
    with pytest.raises(ValueError, match=f"none of the {len(BUGS)} bugs .* lists all"):
        museum.report("zzz")


# -- the matrix ------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_matrix_is_measured_with_progress():
    stream, totals = Terminal(), []

    class Shown(Progress):
        def __init__(self, total):
            super().__init__(total, stream=stream)
            totals.append(total)
            self.last = -math.inf

    bugs = [BUGS["tie-as-copy"], BUGS["tie-as-view"]]
    shown = museum.report("tie-as", Shown)
    assert shown.startswith(format_matrix(measure(bugs, DETECTORS)) + "\n\nx caught, . missed.")
    assert totals == [2]
    assert "step 0/2  tie-as-copy" in stream.getvalue() and stream.getvalue().endswith("\n")


FEW = {name: BUGS[name] for name in ("sub-sign", "tie-as-view")}


def test_the_command_writes_the_matrix_as_markdown(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(museum, "BUGS", FEW)
    path = tmp_path / "bugs.md"
    path.write_text("old")
    assert main(["museum", "--write", str(path)]) == 0
    assert capfd.readouterr() == (f"{path}: 2 bugs, 7 checks\n", "")
    written = path.read_text()
    measured = measure(FEW.values(), DETECTORS)
    assert written == museum.document(measured)
    assert written.endswith(f"\n```\n{format_matrix(measured)}\n```\n")
    assert all(f"\n- {name}: " in written for name in DETECTORS)
    assert max(map(len, written.splitlines())) <= 100


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--write", "nowhere/bugs.md"], "nowhere/bugs.md: No such file or directory"),
        (["sub-sign", "--write", "bugs.md"], "the matrix of all bugs; leave out sub-sign"),
    ],
)
def test_what_cannot_be_written_is_an_error(
    argv,
    message,
    tmp_path,
    capfd,
    monkeypatch,
):
    monkeypatch.setattr(museum, "BUGS", FEW)
    monkeypatch.chdir(tmp_path)
    assert main(["museum", *argv]) == 2
    assert message in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


# -- one bug ---------------------------------------------------------------------------------------


def test_a_bug_is_shown_with_its_checks_and_its_training(capfd):
    bug = BUGS["gelu-cubic-coefficient"]
    out = museum.report(bug.name)
    assert capfd.readouterr() == ("", "")  # no detector's warning either
    assert out.startswith("gelu-cubic-coefficient, in functional.gelu\n")
    assert bug.lesson in " ".join(out.split()) and bug.diff() in out
    assert 'caught by  twin, "gelu has its published values"\n' in out
    assert "missed by  shapes, sum, loss goes down, random cotangent, complex step\n" in out
    right, wrong = museum.loss_curves(bug)
    assert museum.chart(right, wrong) in out
    assert f"first loss  {right[0]:.4f}, with the bug {wrong[0]:.4f}\n" in out
    assert f"last loss   {right[-1]:.4f}, with the bug {wrong[-1]:.4f}\n" in out
    assert out.endswith("The loss goes down with the bug too.")
    assert max(map(len, out.splitlines())) <= 100


def test_if_all_statements_miss_a_bug_they_are_listed_as_one_check():
    caught, missed = museum._caught_and_missed(BUGS["layer-norm-mean-term"])
    assert caught == ["sum", "random cotangent", "complex step", "twin"]
    assert missed == ["shapes", "loss goes down", "statements"]


def test_a_bug_outside_of_training_has_no_curve():
    shown = museum.report("top-p-one-too-few")
    assert shown.endswith(
        "\n\nTraining does not run sampling._truncate, so its loss says nothing about this bug."
    )
    assert "step 1 to" not in shown


def test_a_step_that_raises_is_shown():
    shown = museum.report("linear-dx-untransposed")
    assert "\n\nWith the bug, step 1 raises ValueError: matmul: " in shown
    right, wrong = museum.loss_curves(BUGS["tie-lost-on-load"], steps=4)
    assert wrong == right[:2]  # it is saved and resumed half way


def test_words_for_every_kind_of_difference():
    def said(wrong, error=""):
        return list(museum._differences([4.0, 3.0, 2.0], wrong, error))

    numbers = ["first loss  4.0000, with the bug 4.0000", "last loss   2.0000, with the bug 2.0000"]
    assert said([4.0, 3.0, 2.0]) == [*numbers, "The curves are equal to the last bit."]
    assert said([4.0, 3.0, 2.0 + 1e-9]) == [*numbers, "The curves differ only by rounding."]
    assert said([4.0, 3.1, 2.0])[2:] == [
        "The curves differ from step 2 on.",
        "The loss goes down with the bug too.",
    ]
    assert said([4.0, 3.1, 3.9])[2:] == ["The curves differ from step 2 on."]
    assert said([5.0, 3.1, 5.0])[2:] == [
        "The curves differ from step 1 on, before any weight has changed."
    ]
    assert said([4.0, 3.0, math.nan]) == [
        numbers[0],
        "last loss   2.0000, with the bug nan",
        "The curves differ from step 3 on.",
        "With the bug, the loss is not finite from step 3 on.",
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
def test_it_uses_all_parts_of_a_training(name):
    right, wrong = museum.loss_curves(BUGS[name], 20)
    assert right[0] == wrong[0] and right != wrong


def test_endless_walks_end():
    """The graph is small, so it has few paths, and recursion is not deep."""
    for name in ("engine-walks-every-path", "engine-recursive"):
        right, wrong = museum.loss_curves(BUGS[name], 3)
        np.testing.assert_allclose(wrong, right, rtol=1e-9)


def test_a_loss_that_is_not_finite_and_a_warning_stay_inside():
    (hunk,) = BUGS["gelu-cubic-coefficient"].hunks
    nan = Bug("nan", F.gelu, (hunk.replace("0.0044715", "np.log(-1.0)"),), "No lesson.")
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
def test_a_wrong_number_of_steps_is_an_error(steps):
    with pytest.raises((TypeError, ValueError), match="steps"):
        museum.loss_curves(BUGS["gelu-erf"], steps)


# -- the chart -------------------------------------------------------------------------------------


def columns(drawn, mark):
    """Return the columns that have a mark, counted from the axis."""
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
