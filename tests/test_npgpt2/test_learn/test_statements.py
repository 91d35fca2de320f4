"""The statements about GPT-2 hold, and each is listed once."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from npgpt2.learn import statements
from npgpt2.learn.statements import STATEMENTS


@pytest.mark.parametrize("name", STATEMENTS)
def test_the_library_fulfils_each_statement(name):
    STATEMENTS[name]()


def test_every_public_function_is_a_statement():
    module = ast.parse(Path(statements.__file__).read_text(encoding="utf-8"))
    functions = [f.name for f in module.body if isinstance(f, ast.FunctionDef)]
    public = [name for name in functions if not name.startswith("_") and name != "statement"]
    assert [f.__name__ for f in STATEMENTS.values()] == public
    assert list(STATEMENTS) == [name.replace("_", " ") for name in public]
    assert all(inspect.getdoc(f) for f in STATEMENTS.values())
