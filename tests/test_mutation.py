"""The program makes the expected mutants, and tells killed mutants from survivors."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests import mutation
from tests.mutation import EQUIVALENT, FILES, ROOT, mutants

CHANGES = {
    "return a + b": ["return a - b", "return a", "return b"],
    "return a - b": ["return a + b", "return a", "return -b"],
    "return (a - b) * c": [
        "return (a - b) / c", "return a - b", "return c",
        "return (a + b) * c", "return (a) * c", "return (-b) * c",
    ],
    "return a / b**c": ["return a * b**c", "return a", "return a / (b*c)"],
    "return a // b % c": ["return a // b // c", "return a * b % c"],
    "return a @ b": ["return b @ a"],
    "return a[-2, 1:]": ["return a[-1, 1:]", "return a[2, 1:]", "return a[-2, 2:]"],
    "return a.T + 1e-5": [
        "return a.T - 1e-5", "return a.T", "return 1e-5", "return a + 1e-5",
        "return a.T + 1.00001",
    ],
    "return -np.conj(a.swapaxes(b, c))": [
        "return np.conj(a.swapaxes(b, c))", "return -a.swapaxes(b, c)", "return -np.conj(a)",
    ],
    "a.sum(axis=b, keepdims=True)": [
        "pass", "a.sum(keepdims=True)", "a.sum(axis=b, keepdims=False)",
    ],
    "a[b] = c": ["pass"],
    "a = b": [],
    "a *= b": ["pass", "a /= b"],
    "return a, b, c": ["return b, a, c", "return a, c, b"],
    "return a if b < c else a": ["return a if b <= c else a", "return a if not (b < c) else a"],
    "return a is b is not c": ["return a is not b is not c", "return a is b is c"],
    "return [a for b in c if a in b]": ["return [a for b in c if a not in b]"],
    "return not a or b": ["return not a and b", "return a or b", "return False or b",
                          "return not a or False"],
    "return zip(a, b, strict=True)": [],
    "raise ValueError(a + 1, -b)": [],
    'return f"{a + 1}"': [],
}  # fmt: skip


def changes(source):
    return [mutant.key[2] for mutant in mutants("toy.py", source)]


@pytest.mark.parametrize("statement", CHANGES)
def test_a_statement_is_changed_in_every_way(statement):
    found = changes(f"def f(a, b, c):\n    {statement}\n")
    assert sorted(found) == sorted(CHANGES[statement])


def test_what_is_no_code_is_not_changed():
    source = '''
        """1 + 2"""
        from __future__ import annotations
        Axis: TypeAlias = int | None
        __all__ = ["a" + "b"]
        if TYPE_CHECKING:
            x = 1
        @cache(1)
        def f(a: Literal[1], b: int | None = None) -> Literal[True]:
            """1 + 2"""
        class A:
            def __repr__(self):
                return 1 + 2
    '''
    assert changes(source.replace("\n        ", "\n")) == []


def test_a_change_stays_one_expression_when_the_lines_of_another_go():
    source = "x = (\n    a\n    + b\n) * é - 1\n"
    every = [mutant.changed for mutant in mutants("toy.py", source)]
    assert "x = (a\n    + b) - 1\n" in every
    assert "x = (\n    a\n    - b\n) * é - 1\n" in every
    assert all(ast.parse(changed) for changed in every)


def test_every_mutant_of_a_file_compiles_and_differs_from_all_others():
    file = "npgpt2/composed.py"
    source = (ROOT / file).read_text()
    meanings = [ast.dump(ast.parse(mutant.changed)) for mutant in mutants(file, source)]
    assert len(meanings) > 100
    assert len({*meanings, ast.dump(ast.parse(source))}) == len(meanings) + 1


def test_what_is_called_equivalent_is_a_mutant():
    keys = {m.key for file in FILES for m in mutants(file, (ROOT / file).read_text())}
    assert EQUIVALENT.keys() <= keys


def test_every_file_has_tests_of_its_own(monkeypatch):
    monkeypatch.chdir(ROOT)
    for file in FILES:
        own, others = mutation.own_and_other_tests(file)
        assert len(own) >= 2
        assert not set(own) & set(others)


def test_a_sample_is_the_same_every_time(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    listed = []
    for seed in "001":
        assert mutation.main(["npgpt2/optim.py", "--list", "--sample=5", f"--seed={seed}"]) == 0
        listed.append(capsys.readouterr().out)
    assert listed[0].count("npgpt2/optim.py:") == 5
    assert listed[0] == listed[1] != listed[2]


def test_a_file_that_is_not_mutated_is_named(capsys):
    with pytest.raises(SystemExit):
        mutation.main(["npgpt2/cli.py"])
    assert "npgpt2/cli.py: choose from autograd/backward.py" in capsys.readouterr().err


# -- the command, on a package of two small files ------------------------------------------------

SUMS = """\
def total(numbers):
    out = 0
    while numbers:
        out += numbers.pop()
    return out

def large(x):
    return x > 10

def seen_in_its_source():
    return 1

def seen_by_other_tests():
    return 2
"""
TEST_SUMS = """\
import inspect
from toy.sums import large, seen_in_its_source, total

def test_sums():
    assert total([1, 2]) == 3
    assert large(20) and not large(5)
    assert "return 1" in inspect.getsource(seen_in_its_source)
"""
TEST_SIZES = """\
from toy.sums import seen_by_other_tests

def test_sizes():
    assert seen_by_other_tests() == 2
"""
RUN = """\
import sys
from pathlib import Path
from tests import mutation
mutation.ROOT, mutation.FILES, mutation.ALSO = Path.cwd(), ["toy/sums.py", "toy/sizes.py"], {}
mutation.HEAVY, mutation.GRACE = ["pytest"], 0.5
mutation.EQUIVALENT = {
    ("toy/sums.py", "return x > 10", "return x > 11"): "nobody needs 11",
    ("toy/sums.py", "return x > 10", "return x > 12"): "nobody needs 12",
    ("toy/sums.py", "return 1", "return 2"): "one is as good as the other",
}
sys.exit(mutation.main(["toy/sums.py", "--jobs=2"]))
"""


def run_in(directory, test_sums):
    files = {
        "toy/__init__.py": "", "toy/sums.py": SUMS, "toy/sizes.py": "",
        "tests/test_toy/test_sums.py": test_sums, "tests/test_toy/test_sizes.py": TEST_SIZES,
    }  # fmt: skip
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=directory, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (directory / "toy/sums.py").read_text() == SUMS
    return done


def test_the_command_tells_killed_from_timed_out_equivalent_and_survived(tmp_path):
    done = run_in(tmp_path, TEST_SUMS)
    assert done.stderr == ""
    assert done.returncode == 1  # 85.7 % of the mutants are killed, and 95 % are needed
    row = next(line for line in done.stdout.splitlines() if line.startswith("toy/sums.py"))
    assert row.split() == ["toy/sums.py", "8", "6", "1", "1", "85.7%"]
    for part in (
        "stale entry in EQUIVALENT, no such mutant:\n  toy/sums.py\n"
        "  return x > 10\n  return x > 12\n",
        "8/8: 6 killed, 2 survived",
        "timed out: toy/sums.py:4: statement deleted\n  - out += numbers.pop()\n  + pass\n",
        "survived: toy/sums.py:8: operator\n  - return x > 10\n  + return x >= 10\n",
        "equivalent: toy/sums.py:8: constant\n  - return x > 10\n  + return x > 11\n"
        "  nobody needs 11\n",
        "killed: toy/sums.py:11: constant\n  - return 1\n  + return 2\n"
        "  and yet in EQUIVALENT: one is as good as the other\n",
    ):
        assert part in done.stdout


def test_the_command_stops_if_tests_fail_without_a_mutant(tmp_path):
    done = run_in(tmp_path, TEST_SUMS.replace("== 3", "== 4"))
    assert done.returncode == 1
    assert "assert 3 == 4" in done.stderr
    assert done.stderr.endswith("toy/sums.py is unchanged, but killed by its tests\n")
