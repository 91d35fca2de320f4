"""Several ranks train as one process does, and no rank waits for a rank that is gone."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt2 import cli
from npgpt2.machine import process
from npgpt2.machine.ranks import ALONE, Ranks, launched
from npgpt2.training.run import Run
from npgpt2.training.trainer import Trainer
from tests.optional import needs, skip_without
from tests.test_npgpt2.test_training.test_trainer import MEASURED, TEXT, TINY, assert_same_run, rows

MPI = "mpi4py", "threadpoolctl"
MPIEXEC = Path(sys.executable).with_name("mpiexec")
SIZES = "--n-layer 2 --n-embd 8 --n-head 2 --n-positions 8 --batch-size 5 --eval-batches 2"
FLAGS = f"{SIZES} --steps 6 --eval-every 3 --lr 1e-2 --dropout 0.1 --dtype float64".split()


# -- without MPI: ranks that run one after the other ----------------------------------------------


@given(st.integers(1, 9), st.integers(0, 40))
def test_shares_are_a_partition_as_even_as_can_be(size, more):
    batch = np.arange(size + more)
    shares = [batch[Ranks(rank, size).share(len(batch))] for rank in range(size)]
    np.testing.assert_array_equal(np.concatenate(shares), batch)
    lengths = {len(share) for share in shares}
    assert max(lengths) - min(lengths) <= 1


def test_a_batch_with_fewer_rows_than_ranks_is_refused():
    with pytest.raises(ValueError, match="batch_size=2 is too small for 3 ranks"):
        Ranks(0, 3).share(2)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_losses_and_gradients_of_the_shares_add_up_to_those_of_the_batch(tmp_path, size):
    class Overheard(Ranks):
        """Keeps the arrays for the test, and sends them to no other rank."""

        def sum(self, arrays):
            self.said = [array.copy() for array in arrays]  # clipping changes them in place
            return super().sum(arrays)

    def said(rank, size):
        ranks = Overheard(rank, size)
        config = replace(TINY, dtype="float64", batch_size=5)
        trainer = Trainer.start(tmp_path / f"{rank} of {size}", config, TEXT, ranks)
        trainer.train_step()
        return [trainer.val_loss, *ranks.said]

    parts = [said(rank, size) for rank in range(size)]
    for whole, *shares in zip(said(0, 1), *parts, strict=True):
        np.testing.assert_allclose(sum(shares), whole, rtol=1e-12, atol=1e-15)


class Second(Ranks):
    """The second of two ranks. It records its ends and its thread limits."""

    def __init__(self, monkeypatch):
        super().__init__(1, 2)
        self.ends, self.threads = [], []
        monkeypatch.setattr(cli, "launched", lambda: self)
        monkeypatch.setattr(process, "limit_threads", self.threads.append)

    def end(self, status, said=""):
        self.ends.append((status, said))


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (RuntimeError("oops"), 1, r"Traceback(.|\n)*RuntimeError: oops\n"),
        (ValueError("oops"), 2, "npgpt2: error: oops\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_whatever_ends_a_rank_it_says_so_at_its_end(monkeypatch, capsys, error, status, said):
    def fail(*_):
        raise error

    second = Second(monkeypatch)
    monkeypatch.setattr(Trainer, "resume", fail)
    assert cli.main(["train", "--resume", "run"]) == status
    assert capsys.readouterr() == ("", "")
    assert second.ends[0][0] == status and re.fullmatch(said, second.ends[0][1])


@pytest.mark.parametrize("flags", [[], ["--no-tuning"]])
def test_tuning_can_be_left_out(monkeypatch, flags):
    second = Second(monkeypatch)
    cli.main(["train", "--resume", "nowhere", *flags])
    assert second.threads == ([] if flags else [second.cores()])


# -- with MPI -------------------------------------------------------------------------------------


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text"
    path.write_text(TEXT)
    return str(path)


def python(*argv, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", *argv],
        capture_output=True, text=True, timeout=60, env=os.environ | environment,
    )  # fmt: skip


def mpiexec(n, *argv, code=None):
    """Run the command line, or `code`, on n ranks, with these arguments."""
    program = ["-m", "npgpt2"] if code is None else ["-c", code]
    command = [MPIEXEC, "-n", str(n), sys.executable, "-W", "error", *program, *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def interfering(rank, step, action):
    """Return code that runs the command line, but one rank does `action` before a step."""
    return f"""
import os, signal, sys
from npgpt2 import cli
from npgpt2.training.trainer import Trainer
do_step = Trainer.train_step
def train_step(trainer):
    if trainer.ranks.rank == {rank} and trainer.step == {step}:
        {action}
    return do_step(trainer)
Trainer.train_step = train_step
sys.exit(cli.main())
"""


def assert_same_bits(directory, other):
    assert_same_run(*(SimpleNamespace(run=Run.open(d)) for d in (directory, other)))


def assert_same_up_to_rounding(directory, other):
    runs = [Run.open(d) for d in (directory, other)]
    tables = [[[float(x or "nan") for x in row] for row in rows(run, MEASURED)] for run in runs]
    np.testing.assert_allclose(*tables, rtol=1e-9)
    (_, meta, arrays), (_, other_meta, others) = (run.load() for run in runs)
    for name in ("step", "rng", "model_rng"):
        assert meta[name] == other_meta[name]
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        np.testing.assert_allclose(array, others[name], rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Train on n = 1, 2 and 3 ranks; return the parent of the directories n, and the outputs."""
    skip_without(*MPI)
    parent = tmp_path_factory.mktemp("finished")
    (parent / "text").write_text(TEXT)
    done = {}
    for n in (1, 2, 3):
        flags = ["--text", str(parent / "text"), "--out", str(parent / str(n)), *FLAGS]
        done[n] = mpiexec(n, "train", *flags) if n > 1 else python("-m", "npgpt2", "train", *flags)
    return parent, done


@pytest.mark.parametrize("n", [2, 3])
def test_several_ranks_do_what_one_does(finished, n):
    parent, _ = finished
    assert_same_up_to_rounding(parent / "1", parent / str(n))


def test_rank_0_alone_prints(finished):
    parent, done = finished
    prints = [
        (
            done[n].returncode,
            done[n].stdout.replace(f"{parent}/{n}", "RUN"),
            [line.split("  ")[:3] for line in done[n].stderr.splitlines()],
        )
        for n in (1, 2, 3)
    ]
    assert prints[0][0] == 0 and prints[0] == prints[1] == prints[2]


def test_a_signal_to_one_rank_stops_all_at_the_same_step_and_a_run_goes_on(
    finished, tmp_path, text
):
    """On the same number of ranks, the bits are the same; on another, they agree up to rounding."""
    directory, copy = tmp_path / "run", tmp_path / "copy"
    code = interfering(rank=1, step=4, action="os.kill(os.getpid(), signal.SIGINT)")
    done = mpiexec(2, "train", "--text", text, "--out", str(directory), *FLAGS, code=code)
    assert done.returncode == 130 and "Traceback" not in done.stderr
    assert "stopped and saved at step 5; continue with: " in done.stdout
    assert rows(Run.open(directory), ("step",))[-1] == ("5",)
    shutil.copytree(directory, copy)
    assert mpiexec(2, "train", "--resume", str(directory)).returncode == 0
    assert_same_bits(finished[0] / "2", directory)
    assert python("-m", "npgpt2", "train", "--resume", str(copy)).returncode == 0
    assert_same_up_to_rounding(finished[0] / "2", copy)


@needs(*MPI)
def test_ctrl_c_saves_and_stops(tmp_path, text):
    directory = tmp_path / "run"
    command = [MPIEXEC, "-n", "2", sys.executable, "-m", "npgpt2", "train", "--text", text]
    command += ["--out", str(directory), *FLAGS, "--steps", "20000", "--eval-every", "1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        metrics = directory / "metrics.csv"
        while not metrics.exists() or len(metrics.read_text().splitlines()) < 5:
            assert process.poll() is None, "ended too early"
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in err and b"Abort" not in err
    run = Run.open(directory)
    step = run.load()[1]["step"]
    assert f"stopped and saved at step {step};".encode() in out
    assert len(rows(run, ("step",))) == step + 1


def test_a_killed_rank_ends_the_run_which_goes_on_from_its_last_checkpoint(
    finished, tmp_path, text
):
    directory = tmp_path / "run"
    code = interfering(rank=1, step=4, action="os.kill(os.getpid(), signal.SIGKILL)")
    done = mpiexec(2, "train", "--text", text, "--out", str(directory), *FLAGS, code=code)
    assert done.returncode not in (0, 130)
    assert "Killed (signal 9)" in done.stdout + done.stderr
    assert Run.open(directory).load()[1]["step"] == 3
    assert mpiexec(2, "train", "--resume", str(directory)).returncode == 0
    assert_same_bits(finished[0] / "2", directory)


@needs(*MPI)
@pytest.mark.parametrize(
    ("rank", "action", "message"),
    [
        (0, "raise OSError(28, 'No space left')", "npgpt2: error: [Errno 28] No space left"),
        (1, "raise MemoryError", "rank 1: npgpt2: error: not enough memory"),
    ],
)
def test_an_error_on_one_rank_alone_is_printed_and_ends_all(tmp_path, text, rank, action, message):
    directory = tmp_path / "run"
    code = interfering(rank, step=4, action=action)
    done = mpiexec(2, "train", "--text", text, "--out", str(directory), *FLAGS, code=code)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("error: ") == 1
    assert Run.open(directory).load()[1]["step"] == 3


@needs(*MPI)
@pytest.mark.parametrize(
    "action",
    ["trainer.model.wpe.weight.data[0, 0] += 1e-6", "trainer.rng.random()"],
)
def test_ranks_that_drift_apart_are_noticed_before_the_checkpoint(tmp_path, text, action):
    directory = tmp_path / "run"
    code = interfering(rank=1, step=4, action=action)
    done = mpiexec(2, "train", "--text", text, "--out", str(directory), *FLAGS, code=code)
    assert done.returncode == 2
    message = f"npgpt2: error: {directory}, at step 6: the ranks do not have the same weights"
    assert done.stderr.splitlines()[-1].startswith(message)
    assert Run.open(directory).load()[1]["step"] == 3


@needs(*MPI)
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "--bogus"], "unrecognized arguments: --bogus"),
        (["train", "--text", "nowhere.txt"], "nowhere.txt: No such file or directory"),
        (["train", "--batch-size", "1"], "batch_size=1 is too small for 2 ranks"),
    ],
)
def test_a_mistake_that_all_ranks_meet_is_printed_once(argv, message):
    done = mpiexec(2, *argv)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("npgpt2: error: ") and message in done.stderr
    assert done.stderr.count("\n") == 1


# -- the variables of a launcher, without a launcher ----------------------------------------------


@pytest.mark.parametrize("environment", [{}, {"PMI_SIZE": "1", "SLURM_STEP_NUM_TASKS": "2"}])
def test_one_rank_needs_no_mpi(monkeypatch, environment):
    """The nearest launcher counts: here an mpiexec inside a job step of Slurm."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launched() is ALONE


def test_without_mpi4py_every_rank_says_what_to_install():
    code = "import sys; sys.modules['mpi4py'] = None\nfrom npgpt2.cli import main; sys.exit(main())"
    done = python("-c", code, "train", PMI_SIZE="2")
    assert done.returncode == 2
    assert done.stderr.startswith("npgpt2: error: training over several ranks needs mpi4py: pip ")
    assert "pip install 'npgpt2[mpi]'" in done.stderr and done.stderr.count("\n") == 1


@needs(*MPI)
def test_a_launcher_of_another_mpi_is_no_reason_to_train_twice():
    done = python("-m", "npgpt2", "train", SLURM_STEP_NUM_TASKS="2")
    assert done.returncode == 2
    message = "the launcher has started 2 ranks (SLURM_STEP_NUM_TASKS), but mpi4py sees 1"
    assert message in done.stderr and done.stderr.count("\n") == 1


# -- threads --------------------------------------------------------------------------------------

THREADS = """
import numpy, threadpoolctl
from npgpt2.machine import process
print(process.limit_threads(1), *{p["num_threads"] for p in threadpoolctl.threadpool_info()})
"""


@needs("threadpoolctl")
def test_threads_are_limited_unless_the_user_has_set_their_number():
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    free = {name: value for name, value in os.environ.items() if name not in names}
    for chosen, expected in ({}, "True 1\n"), ({"OPENBLAS_NUM_THREADS": "2"}, "False 2\n"):
        command = [sys.executable, "-c", THREADS]
        done = subprocess.run(command, env=free | chosen, capture_output=True, text=True)
        assert done.stdout == expected, done.stderr


def test_without_threadpoolctl_the_way_out_is_named(monkeypatch):
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    with pytest.raises(ImportError, match=r"pip install 'npgpt2\[mpi\]', or .* --no-tuning"):
        process.limit_threads(1)


@needs(*MPI)
def test_the_cores_of_a_machine_are_shared_out_among_its_ranks():
    code = "from npgpt2.machine.ranks import launched; print(f'{launched().cores()}\\n', end='')"
    done = mpiexec(2, code=code)
    assert done.stdout.split() == 2 * [str(max(1, len(process.cores()) // 2))]
