"""Training learns, is deterministic, and continues a stopped run bit for bit."""

from __future__ import annotations

import csv
import io
import math
import os
import re
import signal
import threading
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from npgpt2.config import TrainingConfig
from npgpt2.disk.checkpoint import load_npz
from npgpt2.progress import Progress
from npgpt2.training import data
from npgpt2.training.trainer import Trainer, required_memory

TEXT = "the quick brown fox jumps over the lazy dog. " * 30
TINY = TrainingConfig(
    n_layer=2, n_head=2, n_embd=16, n_positions=8, dropout=0.1, batch_size=4, steps=12,
    warmup_steps=2, eval_every=4, eval_batches=2, lr=1e-2,
)  # fmt: skip


def quiet(trainer):
    return Progress(trainer.config.steps, trainer.step, stream=io.StringIO())


def train(trainer):
    return trainer.train(quiet(trainer))


def rows(run, columns):
    with open(run.metrics_path, newline="") as file:
        return [tuple(row[c] for c in columns) for row in csv.DictReader(file)]


MEASURED = ("step", "loss", "val_loss", "lr", "grad_norm")  # all but the seconds


def assert_same_run(a, b):
    """Assert that everything but the time is equal, bit for bit."""
    assert rows(a.run, MEASURED) == rows(b.run, MEASURED)
    one, other = (load_npz(x.run.checkpoint_path) for x in (a, b))
    del one.meta["seconds"], other.meta["seconds"]
    assert one.meta == other.meta and one.config == other.config
    for mine, theirs in ((one.parameters, other.parameters), (one.arrays, other.arrays)):
        assert mine.keys() == theirs.keys()
        for name, array in mine.items():
            np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def test_it_learns(tmp_path):
    trainer = Trainer.start(tmp_path, replace(TINY, steps=150, dropout=0.0), TEXT)
    before = trainer.validation_loss()
    assert before == pytest.approx(math.log(len(trainer.run.vocabulary)), rel=0.1)
    assert train(trainer)
    assert trainer.validation_loss() < 0.5 * before


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    runs = [
        Trainer.start(tmp_path / str(i), replace(TINY, seed=seed), TEXT)
        for i, seed in enumerate([0, 0, 1])
    ]
    for trainer in runs:
        assert train(trainer)
    assert_same_run(runs[0], runs[1])
    assert rows(runs[0].run, MEASURED) != rows(runs[2].run, MEASURED)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stop", [1, 5, 7, 11])
def test_a_resumed_run_equals_one_that_was_never_stopped(tmp_path, stop, dtype):
    config = replace(TINY, dtype=dtype)
    straight = Trainer.start(tmp_path / "straight", config, TEXT)
    assert train(straight)

    stopped = Trainer.start(tmp_path / "stopped", config, TEXT)

    class StopAt(Progress):
        def update(self, step, text, milestone=False):
            if step == stop:
                os.kill(os.getpid(), signal.SIGINT)

    assert not stopped.train(StopAt(config.steps, stream=io.StringIO()))
    assert stopped.step == stop
    resumed = Trainer.resume(tmp_path / "stopped")
    assert resumed.step == stop
    assert train(resumed)
    assert_same_run(straight, resumed)


def test_a_run_that_died_goes_on_from_its_last_checkpoint(tmp_path):
    straight = Trainer.start(tmp_path / "straight", TINY, TEXT)
    assert train(straight)
    died = Trainer.start(tmp_path / "died", TINY, TEXT)

    class DieAt7(Progress):
        def update(self, step, text, milestone=False):
            if step == 7:
                raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        died.train(DieAt7(TINY.steps, stream=io.StringIO()))
    with died.run.metrics_path.open("a") as file:
        file.write("8,1.2")  # a row torn in two
    resumed = Trainer.resume(tmp_path / "died")
    assert resumed.step == 4, "the last multiple of eval_every"
    assert train(resumed)
    assert_same_run(straight, resumed)


def test_a_second_signal_interrupts_at_once_and_handlers_are_restored(tmp_path):
    trainer = Trainer.start(tmp_path, TINY, TEXT)
    before = signal.getsignal(signal.SIGINT)

    class Impatient(Progress):
        def update(self, step, text, milestone=False):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trainer.train(Impatient(TINY.steps, stream=io.StringIO()))
    assert signal.getsignal(signal.SIGINT) is before
    assert Trainer.resume(tmp_path).step == 0


def test_metrics_have_a_row_a_step_and_the_schedule(tmp_path):
    trainer = Trainer.start(tmp_path, TINY, TEXT)
    train(trainer)
    table = rows(trainer.run, ("step", "loss", "val_loss", "lr", "grad_norm", "seconds"))
    assert [int(row[0]) for row in table] == list(range(TINY.steps + 1))
    assert [int(row[0]) for row in table if row[2]] == [0, 4, 8, 12]
    lrs = [float(row[3]) for row in table[1:]]
    assert lrs[0] == TINY.lr and lrs == sorted(lrs, reverse=True), "warm-up: a tenth of 12 is 1"
    assert all(float(row[4]) > 0 for row in table[1:])
    seconds = [float(row[5]) for row in table]
    assert seconds == sorted(seconds)


def test_progress_tells_losses_speed_and_time_left(tmp_path):
    trainer = Trainer.start(tmp_path, TINY, TEXT)
    stream = io.StringIO()
    trainer.train(Progress(TINY.steps, stream=stream))
    last = stream.getvalue().splitlines()[-1]
    assert last.startswith("step 12/12  loss ")
    for part in ("  val ", " tokens/s  ", "0:00 left"):
        assert part in last


def test_validation_is_the_same_every_time_and_draws_nothing(tmp_path):
    trainer = Trainer.start(tmp_path, TINY, TEXT)
    state = trainer.model.rng.bit_generator.state, trainer.rng.bit_generator.state
    assert trainer.validation_loss() == trainer.validation_loss()
    assert state == (trainer.model.rng.bit_generator.state, trainer.rng.bit_generator.state)


def test_weights_that_are_not_finite_end_the_run_and_leave_the_checkpoint(tmp_path):
    trainer = Trainer.start(tmp_path, TINY, TEXT)
    before = trainer.run.checkpoint_path.read_bytes()
    trainer.model.wpe.weight.data[0, 0] = np.nan
    message = f"{tmp_path}, after step 0: gradient norm is nan; lower the learning rate"
    with pytest.raises(FloatingPointError, match=message):
        train(trainer)
    assert trainer.run.checkpoint_path.read_bytes() == before
    assert not np.isnan(trainer.model.wte.weight.data).any()


@pytest.mark.parametrize("stop", [1, 4])
def test_a_model_without_a_finite_loss_never_replaces_a_checkpoint(tmp_path, stop):
    """A validation is due at step 4. At step 1, only the signal stops the run."""
    trainer = Trainer.start(tmp_path, TINY, TEXT)
    before = trainer.run.checkpoint_path.read_bytes()
    step = trainer.optimizer.step

    def explode():
        step()
        if trainer.optimizer.step_count == stop:
            trainer.model.wpe.weight.data[...] = np.inf
            os.kill(os.getpid(), signal.SIGTERM)

    trainer.optimizer.step = explode
    message = f"after step {stop}: validation loss is nan; lower the learning rate"
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match=message):
        train(trainer)
    assert trainer.run.checkpoint_path.read_bytes() == before


@pytest.mark.parametrize("diverged", [False, True])
def test_when_nobody_reads_the_progress_the_run_is_saved_if_sound(tmp_path, diverged):
    trainer = Trainer.start(tmp_path, TINY, TEXT)

    class Closed(Progress):
        def update(self, step, text, milestone=False):
            if step == 3:
                if diverged:
                    trainer.model.wpe.weight.data[...] = np.inf
                raise BrokenPipeError

    error = FloatingPointError if diverged else BrokenPipeError
    with np.errstate(all="ignore"), pytest.raises(error):
        trainer.train(Closed(TINY.steps, stream=io.StringIO()))
    assert Trainer.resume(tmp_path).step == (0 if diverged else 3)


@pytest.mark.parametrize(
    "change",
    [
        *({"lr": 2e-2}, {"min_lr": 5e-3}, {"warmup_steps": 0}, {"steps": 200}, {"beta1": 0.5}),
        *({"beta2": 0.5}, {"weight_decay": 0.9}, {"max_grad_norm": 0.01}, {"batch_size": 3}),
        *({"n_layer": 1}, {"n_head": 1}, {"n_embd": 20}, {"n_positions": 7}, {"dropout": 0.2}),
        *({"val_fraction": 0.2}, {"seed": 1}, {"dtype": "float64"}),
    ],
)
def test_every_setting_changes_the_training(tmp_path, change):
    losses = []
    for config in (replace(TINY, steps=100), replace(TINY, **{"steps": 100, **change})):
        trainer = Trainer.start(tmp_path / str(len(losses)), config, TEXT)
        losses.append([trainer.train_step().loss for _ in range(8)])
    assert losses[0] != losses[1]


@pytest.mark.parametrize("change", [{"eval_batches": 1}, {"val_fraction": 0.2}])
def test_settings_of_the_validation_change_its_loss(tmp_path, change):
    one, other = (
        Trainer.start(tmp_path / str(i), replace(TINY, **c), TEXT)
        for i, c in enumerate([{}, change])
    )
    assert one.val_loss != other.val_loss


def test_validation_looks_at_all_of_its_part(tmp_path):
    trainer = Trainer.start(tmp_path, replace(TINY, eval_batches=20), TEXT)
    loss, tokens = trainer.validation_loss(), trainer.val_tokens.copy()
    for part in (slice(None, 20), slice(60, 80), slice(-20, None)):
        trainer.val_tokens = tokens.copy()
        trainer.val_tokens[part] = 0
        assert trainer.validation_loss() != loss


def test_training_turns_dropout_on(tmp_path):
    trainer = Trainer.start(tmp_path, TINY, TEXT)
    trainer.model.eval()
    state = trainer.model.rng.bit_generator.state
    trainer.train_step()
    assert trainer.model.rng.bit_generator.state != state


def test_the_line_of_a_terminal_is_ended_whatever_happens(tmp_path):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    streams = [Terminal(), Terminal()]
    assert Trainer.start(tmp_path / "fine", TINY, TEXT).train(Progress(12, stream=streams[0]))
    broken = Trainer.start(tmp_path / "broken", TINY, TEXT)
    broken.run.append = lambda metrics: 1 // 0 if metrics.step == 9 else None
    with pytest.raises(ZeroDivisionError):
        broken.train(Progress(12, stream=streams[1]))
    for stream in streams:
        # Spaces cover the end of a longer line before it: a higher speed has more digits.
        assert re.fullmatch(r"\r[^\n]* left *\n", stream.getvalue())


def test_seconds_go_on_from_those_before(tmp_path):
    Trainer.start(tmp_path, TINY, TEXT).save()
    trainer = Trainer.resume(tmp_path)
    trainer.seconds = 1000.0
    assert train(trainer)
    seconds = [float(s) for (s,) in rows(trainer.run, ("seconds",))]
    assert seconds[0] == 0.0 and all(1000.0 < s < 1100.0 for s in seconds[1:])


def test_a_short_text_is_refused_before_a_directory_is_made(tmp_path):
    with pytest.raises(ValueError, match="text of 20 characters is too short"):
        Trainer.start(tmp_path / "run", TINY, "x" * 20)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", [{"batch_size": 10**12}, {"n_layer": 10**9}, {"n_embd": 10**7}])
def test_a_model_too_large_for_the_machine_is_refused_at_once(tmp_path, change):
    message = r"needs at least [\d,]+ GiB, but this machine has \d+ GiB; take a smaller batch_size"
    with pytest.raises(ValueError, match=message):
        Trainer.start(tmp_path / "run", replace(TINY, **change), TEXT)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"n_layer": 4},
        {"n_embd": 96},
        {"batch_size": 64},
        {"n_layer": 2, "n_head": 8, "n_embd": 32, "n_positions": 320, "batch_size": 1},
    ],
)
def test_the_required_memory_is_at_least_half_of_the_memory_taken(tmp_path, change):
    config = replace(TINY, **{"n_embd": 64, "n_positions": 32, "dropout": 0.0, **change})
    trainer = Trainer.start(tmp_path, config, TEXT * 10)
    said = required_memory(config, len(trainer.run.vocabulary), config.batch_size)
    trainer.model.zero_grad()
    del trainer.optimizer
    tracemalloc.start()
    copies = [trainer.model.state_dict() for _ in range(4)]  # weights, gradients, two moments
    inputs, targets = data.random_batch(
        trainer.tokens, config.batch_size, config.n_positions, trainer.rng
    )
    loss = trainer.model.loss(inputs, targets)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del loss, copies
    assert said <= taken < 2.0 * said


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_start_that_could_not_save_can_be_repeated(tmp_path, monkeypatch, error):
    def fail(trainer):
        raise error

    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(Trainer, "save", fail)
        Trainer.start(tmp_path / "run", TINY, TEXT)
    assert train(Trainer.start(tmp_path / "run", TINY, TEXT))


def test_an_interrupted_start_leaves_no_directory(tmp_path, monkeypatch):
    def interrupted(trainer):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "validation_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Trainer.start(tmp_path / "run", TINY, TEXT)
    assert not (tmp_path / "run").exists()


def test_a_directory_in_use_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        Trainer.start(tmp_path, TINY, TEXT)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_outside_the_main_thread_signals_are_left_alone(tmp_path):
    trainer = Trainer.start(tmp_path, TINY, TEXT)
    finished = []
    thread = threading.Thread(target=lambda: finished.append(train(trainer)))
    thread.start()
    thread.join()
    assert finished == [True]
