"""What the detectors are made of, and how their results are counted and shown."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from npgpt2 import composed
from npgpt2 import functional as F
from npgpt2.learn import detectors
from npgpt2.learn.bugs import BUGS
from npgpt2.learn.detectors import (
    DETECTORS,
    PROPERTIES,
    catches,
    format_matrix,
    fused_cases,
    measure,
    primitive_cases,
)

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda f: f.__name__)
def test_the_library_has_each_property(holds: detectors.Detector) -> None:
    holds()


def test_every_property_is_listed() -> None:
    source = Path(detectors.__file__).read_text(encoding="utf-8")
    section = source.split("# -- statements that hold")[1].split("PROPERTIES")[0]
    public = [line.split("(")[0] for line in section.split("\ndef ")[1:] if line[0] != "_"]
    assert [f.__name__ for f in PROPERTIES] == public


def test_both_tables_of_fused_ops_have_the_same_inputs() -> None:
    ours, twins = fused_cases(F), fused_cases(composed)
    assert ours.keys() == twins.keys()
    for name, case in ours.items():
        for x, y in zip(case.inputs, twins[name].inputs, strict=True):
            np.testing.assert_array_equal(x, y)


def test_every_fused_op_is_in_the_table() -> None:
    names = [
        name
        for name, f in vars(composed).items()
        if getattr(f, "__module__", "") == composed.__name__
    ]
    assert len(names) == 9
    for name in names:
        prefix = name.removeprefix("causal_")
        assert any(case.startswith(prefix) for case in fused_cases()), name


def test_cases_are_made_anew_every_time() -> None:
    """So that a bug which changes its input spoils no later check."""
    for table in (primitive_cases, fused_cases):
        for one, other in zip(table().values(), table().values(), strict=True):
            assert not any(map(np.shares_memory, one.inputs, other.inputs))


def test_an_error_is_a_catch_and_a_warning_is_none() -> None:
    def warn() -> None:
        warnings.warn("only that", stacklevel=1)
        np.log(np.zeros(2))

    def fail() -> None:
        raise IndexError

    assert not catches(warn) and catches(fail)


def test_ctrl_c_is_no_catch() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        catches(interrupt)


def test_the_matrix_has_a_row_for_each_bug_and_a_total() -> None:
    bugs = [BUGS["sub-sign"], BUGS["schedule-rises-again"]]
    few = {name: DETECTORS[name] for name in ("sum", "twin")}
    assert format_matrix(measure(bugs, few)).splitlines() == [
        "                      sum",
        "                      |  twin",
        "sub-sign              x  x",
        "schedule-rises-again  .  .",
        "caught, of 2          1  1",
    ]


def test_the_museum_is_not_part_of_the_library_proper() -> None:
    code = "import sys, npgpt2, npgpt2.cli; sys.exit('npgpt2.learn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


def test_numpy_is_all_it_needs() -> None:
    code = (
        "import sys, npgpt2.learn.detectors\n"
        "sys.exit(' '.join({'torch', 'hypothesis', 'pytest'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, capture_output=True)
    assert done.stderr.strip() == b""
