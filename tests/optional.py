"""Skip tests that need a missing package: torch, or an extra of npgpt2."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


def has(package: str) -> bool:
    """Return whether `package` is installed."""
    return find_spec(package) is not None


def lack(*packages: str) -> str:
    """Return which of `packages` are missing and how to install them; "" if none is missing."""
    missing = " and ".join(package for package in packages if not has(package))
    return f"needs {missing}: python3 -m pip install '.[test]'" if missing else ""


def needs(*packages: str) -> pytest.MarkDecorator:
    """Mark a test that is skipped if one of `packages` is missing."""
    return pytest.mark.skipif(lack(*packages) != "", reason=lack(*packages))


def skip_without(*packages: str) -> None:
    """Call this in a fixture: it skips the tests that use the fixture if a package is missing."""
    if reason := lack(*packages):
        pytest.skip(reason)
