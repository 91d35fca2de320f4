"""Every lesson runs, and prints what it claims to show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SHOWN = {
    "01_chain_rule.py": r"da = 5 \(that is b\), db = 2 \(that is a\)[\s\S]*"
    r"dL/da = 0\.500, dL/db = 0\.200\n.*a\.grad = 0\.500, b\.grad = 0\.200[\s\S]*"
    r"x\.grad = 6 = 3 \+ 3[\s\S]*row\.grad = \[ 6\. 60\.\]",
    "02_your_own_op.py": r"(gradients agree[\s\S]*){3}wrong gradient[\s\S]*gradients agree",
    "03_layer_norm_by_hand.py": r"sums: \[0\. 0\.\]\nleave out .*\n  sums: \[-0\.921  2\.139\]",
    "04_tied_weight.py": r"is wte\.weight: True[\s\S]*6,816 tied, 6,944 untied",
    "05_train_in_plain_sight.py": r"step   0  loss 2\.[\s\S]*step 200  loss 0\.[\s\S]*sample: the ",
    "06_test_your_own_op.py": r"softplus has all 13 properties[\s\S]*"
    r"wrong softplus: wrong gradient[\s\S]*call=Call\(",
}


def test_every_lesson_is_listed():
    assert sorted(SHOWN) == sorted(path.name for path in (ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_lesson(name):
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples" / name],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert re.search(SHOWN[name], done.stdout), done.stdout
