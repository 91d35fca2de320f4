"""`__all__` is the list in the docstring, and the built wheel has all files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import autograd
import npgpt2
from autograd import testing

ROOT = Path(__file__).parents[1]


def documented(package):
    """Return the names in the table of the package's docstring: indented lines after a label."""
    table = re.findall(r"^    [a-z ]+:  +(.+(?:\n {8,}.+)*)", package.__doc__, re.M)
    return re.findall(r"\w+", " ".join(table))


@pytest.mark.parametrize("package", [autograd, npgpt2], ids=lambda package: package.__name__)
def test_all_is_what_the_docstring_lists(package):
    names = documented(package)
    assert len(names) == len(set(names)) > 10
    assert sorted(names) == sorted(package.__all__)
    for name in names:
        assert getattr(package, name) is not None


def test_every_tool_for_tests_has_a_docstring():
    names = testing.__all__
    assert len(names) == len(set(names)) > 10
    for name in names:
        tool = getattr(testing, name)
        if callable(tool):
            assert tool.__doc__ and not tool.__doc__.startswith(f"{name}("), name


def test_dir_lists_the_names_that_are_imported_when_used():
    assert set(npgpt2.__all__) <= set(dir(npgpt2))


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'npgpt2' has no attribute 'GPT3Model'"):
        npgpt2.GPT3Model  # noqa: B018


USE = """
import sys, npgpt2, autograd
from importlib.metadata import distribution
from importlib.resources import files
assert npgpt2.__file__.startswith(sys.argv[1]) and autograd.__file__.startswith(sys.argv[1])
from npgpt2 import *
print(GPT2Model(GPT2Config(9, 4, 8, 1, 2))([[1, 2]]).shape, TextModel.__name__)
from npgpt2.learn.bugs import BUGS
from npgpt2.learn.practice import derivation, exercises
print(len(BUGS) > 100, len(exercises()), len(derivation("gelu")) > 500)
for file in ("npgpt2/py.typed", "autograd/py.typed", "npgpt2/learn/page.html"):
    package, _, rest = file.partition("/")
    assert (files(package) / rest).is_file(), file
print(*(entry.name for entry in distribution("npgpt2").entry_points))
"""


def test_the_built_wheel_has_everything(tmp_path):
    pytest.importorskip("hatchling", reason="needs hatchling: pip install -e '.[test]'")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    run = {"check": True, "capture_output": True, "text": True, "timeout": 300}
    wheel = ["wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT]
    subprocess.run([*pip, *wheel], **run)
    (built,) = tmp_path.glob("npgpt2-*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, built], **run)
    used = subprocess.run(
        [sys.executable, "-W", "error", "-c", USE, str(site)],
        env=os.environ | {"PYTHONPATH": str(site)},
        cwd=tmp_path,
        **run,
    )
    assert used.stdout.splitlines() == ["(1, 2, 9) TextModel", "True 12 True", "npgpt2"]
