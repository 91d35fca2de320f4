"""The two sides of a benchmark do the same computation, take turns, and end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest

from npgpt2 import GPT2Config, GPT2Model
from tests.benchmarks import memory
from tests.benchmarks.step import CONFIGS, batch_of, check, config_of
from tests.benchmarks.turns import ROOT, Worker, python, ratio, take_turns
from tests.optional import needs

SERVE = """
import sys
sys.path.insert(0, {root!r})
from tests.benchmarks.turns import serve
serve({{"loss": 1.5}}, lambda: {{"forward": {seconds}, "backward": 2 * {seconds}}})
"""


def worker(seconds):
    code = SERVE.format(root=str(ROOT), seconds=seconds)
    return Worker([sys.executable, "-c", code], threads=1)


def test_workers_take_turns_and_end():
    quick, slow = worker(0.25), worker(1.0)
    assert quick.ready == slow.ready == {"loss": 1.5}
    take_turns([quick, slow], rounds=3, seconds=0.001)
    assert len(quick.turns) == len(slow.turns) == 3
    assert quick.median("backward") == 0.5 and quick.median("step") == 0.75
    assert ratio(slow, quick, "step") == (4.0, 4.0, 4.0)
    assert quick.median("peak") > 1e7 and quick.median("faults") >= 0.0
    for one in (quick, slow):
        one.close()
        assert one.process.returncode == 0


def test_a_ratio_is_taken_round_by_round():
    """If the machine is slow for a while, it is slow for both sides of a round."""
    mine, other = (SimpleNamespace(turns=[{"step": t} for t in times]) for times in T)
    assert ratio(other, mine, "step") == (2.0, 1.5, 3.0)  # type: ignore[arg-type]


T = ([1.0, 10.0, 2.0], [2.0, 15.0, 6.0])


def test_a_worker_that_dies_is_an_error():
    with pytest.raises(RuntimeError, match="a worker ended: status 3"):
        Worker([sys.executable, "-c", "raise SystemExit(3)"], threads=1)


@pytest.mark.parametrize("key", ["loss", "norm"])
def test_programs_that_do_not_compute_the_same_are_not_compared(key):
    same = {"loss": 4.2, "norm": 2.0}
    check(same, same | {key: same[key] * (1.0 + 1e-6)})
    with pytest.raises(SystemExit, match=f"not the same computation: {key}"):
        check(same, same | {key: same[key] * 1.0001})


def test_configurations_are_without_dropout_and_batches_fit_them():
    for name in CONFIGS:
        config, (ids, targets) = config_of(name), batch_of(name)
        assert (config.embd_pdrop, config.resid_pdrop, config.attn_pdrop) == (0.0, 0.0, 0.0)
        assert ids.shape == targets.shape == (CONFIGS[name][1], config.n_positions)
        assert (ids[:, 1:] == targets[:, :-1]).all() and ids.max() < config.vocab_size


@needs("torch", "mpi4py", "threadpoolctl")
def test_the_smallest_configuration_from_the_command_line():
    flags = "--rounds 1 --seconds 0.01 --threads 2 --ranks".split()
    command = python("tests.benchmarks.step", "tiny", *flags)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    sides = [line.split("  ")[1] for line in done.stdout.splitlines() if "tokens/s" in line]
    assert sides == ["ours", "torch", "floor", "ours, 2 ranks", "torch, 2 ranks"]
    assert re.search(r"torch / ours: \d+\.\d\d \(\d+\.\d\d to \d+\.\d\d\);  forward", done.stdout)


@needs("torch")
def test_generation_from_the_command_line():
    """The benchmark ends with an error if the two sides draw different tokens."""
    command = python("tests.benchmarks.decode", "char", *"--rounds 1 --seconds 0.01".split())
    done = subprocess.run(
        [*command, "--threads", "1"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    sides = [line.split()[7] for line in done.stdout.splitlines() if "tokens/s" in line]
    assert sides == ["ours", "torch", "floor"]
    assert re.search(r"torch / ours, decode: \d+\.\d\d \(\d+\.\d\d to ", done.stdout)


@needs("safetensors")
@pytest.mark.parametrize("half", [False, True])
def test_a_directory_is_measured_after_each_step(half, tmp_path, monkeypatch, capsys):
    small = partial(GPT2Config, n_embd=8, n_layer=1, n_head=2)
    monkeypatch.setitem(memory.PRESETS, "small", small)
    memory.make("small", tmp_path, half)
    memory.serve(str(tmp_path))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["what"] for line in lines] == ["load", "generate 16", "forward 1024"]
    assert all(0.0 < line["RssAnon"] <= line["VmHWM"] for line in lines)
    size = sum(p.numel() for p in GPT2Model(small()).parameters()) * (2 if half else 4)
    assert size < (tmp_path / "model.safetensors").stat().st_size < 1.01 * size
