"""The settings of the process change on request, and never by an import."""

from __future__ import annotations

import ctypes
import sys

import pytest

from npgpt2.cli import main
from npgpt2.machine import process
from npgpt2.machine.process import keep_freed_memory
from tests.test_npgpt2.test_import import python

FAULTS = """
import resource
import numpy as np
import npgpt2
from npgpt2.machine import process
from npgpt2.cli import main
from npgpt2.machine.process import keep_freed_memory

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
def test_freed_memory_is_used_again_on_request_only():
    done = python(FAULTS)
    before, after = map(int, done.stdout.split())
    assert before > 1000, done.stderr  # an import changed nothing
    assert after < 20


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()


@pytest.mark.parametrize("flags", [[], ["--no-tuning"]])
def test_the_command_line_tunes_unless_told_not_to(flags, tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(process, "keep_freed_memory", lambda: calls.append("memory"))
    monkeypatch.setattr(process, "limit_threads", lambda n: calls.append("threads"))
    (tmp_path / "text").write_text("to be, or not to be: that is the question.\n" * 20)
    run = str(tmp_path / "run")
    sizes = "--n-layer 1 --n-embd 8 --n-head 2 --n-positions 8 --batch-size 2 --steps 1"
    command = ["train", "--text", str(tmp_path / "text"), "--out", run]
    assert main([*command, *sizes.split(), "--eval-batches", "1", *flags]) == 0
    assert main(["generate", run, "--max-new-tokens", "1", *flags]) == 0
    assert calls == ([] if flags else ["memory", "memory"])  # without ranks, BLAS keeps its threads
    capsys.readouterr()


@pytest.mark.parametrize("value", ["", "0", "many"])
def test_by_default_there_is_a_thread_for_every_core(value, monkeypatch):
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, value)
    assert process.thread_limit() == len(process.cores()) >= 1
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    assert process.thread_limit() == 3
    monkeypatch.setattr(process, "_limit", 2)
    assert process.thread_limit() == 2
