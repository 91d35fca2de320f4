"""The matrix: which errors count as a catch, and how it is measured and printed."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from npgpt2.learn.bugs import BUGS
from npgpt2.learn.detectors import DETECTORS, AllOf, catches, code_run_by, format_matrix, measure

ROOT = Path(__file__).parents[3]


def test_an_error_is_a_catch_and_a_warning_is_none():
    def warn():
        warnings.warn("only that", stacklevel=1)
        np.log(np.zeros(2))

    def fail():
        raise IndexError

    assert not catches(warn) and catches(fail)


def test_ctrl_c_is_no_catch():
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        catches(interrupt)


def test_the_matrix_has_a_row_for_each_bug_and_a_total():
    bugs = [BUGS["sub-sign"], BUGS["schedule-rises-again"]]
    few = {name: DETECTORS[name] for name in ("sum", "twin")}
    assert format_matrix(measure(bugs, few)).splitlines() == [
        "                      sum",
        "                      |  twin",
        "sub-sign              x  x",
        "schedule-rises-again  .  .",
        "caught, of 2          1  1",
    ]


def test_a_detector_that_does_not_run_the_function_is_not_called_with_the_bug():
    calls = 0

    def detector():
        nonlocal calls
        calls += 1

    matrix = measure([BUGS["sub-sign"]], {"one": detector, "several": AllOf((detector,))})
    assert matrix == {"sub-sign": {"one": False, "several": False}}
    assert calls == 2  # to see which functions each of them runs
    assert detector.__code__ in code_run_by(AllOf((detector,)))


def test_importing_npgpt2_does_not_load_the_study_tools():
    code = "import sys, npgpt2, npgpt2.cli; sys.exit('npgpt2.learn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


def test_detectors_need_numpy_alone():
    code = (
        "import sys, npgpt2.learn.detectors\n"
        "sys.exit(' '.join({'torch', 'hypothesis', 'pytest'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, capture_output=True)
    assert done.stderr.strip() == b""
