"""What is set of the process: on request, and never by an import."""

from __future__ import annotations

import ctypes
import sys

import pytest

from npgpt2.process import keep_freed_memory
from tests.test_npgpt2.test_import import python

FAULTS = """
import resource
import numpy as np
import npgpt2
from npgpt2.process import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        a = np.ones(1 << 18)  # 2 MiB: 512 pages
        b = a + 1.0
        del a, b
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
assert keep_freed_memory()
faults()
print(before, faults())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="needs glibc")
def test_freed_memory_is_used_again_on_request_only() -> None:
    done = python(FAULTS)
    before, after = map(int, done.stdout.split())
    assert before > 1000, done.stderr  # an import changed nothing
    assert after < 20


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()
