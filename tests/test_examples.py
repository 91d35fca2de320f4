"""Every lesson runs, prints the numbers that it claims, and fits a terminal of 80 columns."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from npgpt2.learn.practice import exercises

ROOT = Path(__file__).parents[1]

SHOWN = {
    "01_chain_rule.py": r"da = 5 \(that is b\), db = 2 \(that is a\)[\s\S]*"
    r"dL/da = 0\.500, dL/db = 0\.200\n.*a\.grad = 0\.500, b\.grad = 0\.200[\s\S]*"
    r"x\.grad = 6 = 3 \+ 3[\s\S]*row\.grad = \[ 6\. 60\.\]",
    "02_your_own_op.py": r"(gradients agree[\s\S]*){3}wrong gradient[\s\S]*gradients agree",
    "03_linear_and_cross_entropy.py": r"with 1/N  1\.0 times dw\n  without   2\.0 times dw[\s\S]*"
    r"dx = dz @ w\.T: .* is right, the values are off by 0\.308",
    "04_softmax_and_gelu.py": r"values differ by at most 4\.73e-04, at \|x\| = 2\.70\n"
    r".*slopes differ by at most 8\.68e-04[\s\S]*left of x = -0\.75",
    "05_layer_norm_by_hand.py": r"sums: \[0\. 0\.\]\nWithout .*\n  sums: \[-0\.921  2\.139\]",
    "06_embedding.py": r"      2     4          3\.483          2\.463\n",
    "07_tied_weight.py": r"is wte\.weight: True[\s\S]*6,816 tied, 6,944 untied",
    "08_attention_by_hand.py": r"queries  norm 1\.6e\+00; .*\n  keys     norm \d\.\de-1[5-9]; "
    r".*\n  values   norm 9\.6e\+00",
    "09_residual_and_block.py": r"g             -2\.086   1\.370\n"
    r"  dx            -2\.086   1\.370\n  through mlp    0\.000   0\.000",
    "10_dropout_and_adamw.py": r"norm of dx 114\.1, with a new mask 115\.2, "
    r"of their difference 81\.9[\s\S]*step 3: largest difference",
    "11_train_in_plain_sight.py": r"step   0  loss 2\.[\s\S]*step 200  loss 0\.[\s\S]*sample: the ",
    "12_test_your_own_op.py": r"softplus has all 13 properties[\s\S]*"
    r"wrong softplus: wrong gradient[\s\S]*call=Call\([\s\S]*"
    r"layer norm has all properties\.\n\nwithout the mean: wrong gradient[\s\S]*"
    r"without_the_mean lacks this property: gradients_are_the_difference_quotients\n"
    r"[\s\S]*call=\(np\.array\(\[\[",
}


def test_every_lesson_is_listed():
    assert sorted(SHOWN) == sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def test_every_exercise_has_its_lesson():
    named = [
        name
        for path in sorted((ROOT / "examples").glob("*.py"))
        for name in re.findall(r"practice (\w+)", path.read_text())
    ]
    assert sorted(named) == sorted(exercises())


def test_the_index_lists_every_lesson_with_its_exercises():
    index = (ROOT / "examples" / "README.md").read_text()
    rows = dict(re.findall(r"^\| \[(\w+)\]\(\1\.py\) (\|.*)$", index, re.M))
    assert sorted(f"{name}.py" for name in rows) == sorted(SHOWN)
    for name, row in rows.items():
        named = re.findall(r"practice (\w+)", (ROOT / "examples" / f"{name}.py").read_text())
        assert re.findall(r"`(\w+)`", row.rpartition(" | ")[2]) == named


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
    assert max(map(len, done.stdout.splitlines())) <= 80
