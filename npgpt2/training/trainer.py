"""Train a character-level GPT-2. A stopped run continues bit for bit as if it had not stopped."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from autograd import Array
from npgpt2 import validate
from npgpt2.config import TrainingConfig
from npgpt2.machine.ranks import ALONE, Ranks
from npgpt2.model import GPT2Model
from npgpt2.optim import AdamW, clip_grad_norm, cosine_schedule
from npgpt2.parameter_table import count_parameters
from npgpt2.progress import Progress
from npgpt2.training import data
from npgpt2.training.batch_dropout import dropout_of_batch
from npgpt2.training.run import Metrics, Run


class Trainer:
    """A run, and everything that changes during training.

    `Trainer.start` makes a new run, `Trainer.resume` opens an old one, and `train` does all
    remaining steps. With several ranks, each rank has a Trainer, and all ranks call the same
    methods in the same order.

    Attributes
    ----------
    run, config
        The run directory and its hyperparameters.
    model, optimizer
        The model, and the AdamW that trains it.
    batch_rows, batch_share
        The rows of a batch that this rank trains on (a slice), and their fraction of the batch.
    rng
        The generator that draws the batches. (Dropout draws from `model.rng`.)
    step
        Number of steps done.
    val_loss
        The last validation loss.
    seconds
        Time spent on all steps so far, in seconds, also before the run was resumed.
    ranks
        The processes that train together; by default this process alone.
    """

    def __init__(self, run: Run, ranks: Ranks = ALONE, model: GPT2Model | None = None) -> None:
        way_out = "use Trainer.start(directory, config, text) or Trainer.resume(directory)"
        config = validate.instance("run", run, Run, way_out).config
        self.run, self.config, self.ranks = run, config, ranks
        tokens = run.vocabulary.encode(run.text)
        self.tokens, self.val_tokens = data.split(tokens, config.val_fraction, config.n_positions)
        self.batch_rows = ranks.share(config.batch_size)
        n_rows = self.batch_rows.stop - self.batch_rows.start
        self.batch_share = n_rows / config.batch_size
        self.model = model or _new_model(config, len(run.vocabulary), n_rows)
        self.rng = np.random.default_rng(config.seed)
        self.optimizer = AdamW(
            self.model.parameters(),
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
        )
        self.step = 0
        self.val_loss = math.nan
        self.seconds = 0.0

    @classmethod
    def start(
        cls, directory: str | Path, config: TrainingConfig, text: str, ranks: Ranks = ALONE
    ) -> Trainer:
        """Make a new run directory; return its Trainer, at step 0.

        Raises
        ------
        FileExistsError
            The directory exists and is not empty.
        ValueError
            The text is too short, the batch is too small for the ranks, or the model is too large
            for this machine.
        """
        trainer = cls(ranks.once(lambda: Run.new(directory, config, text)), ranks)
        run = trainer.run
        trainer.val_loss = trainer.validation_loss()
        try:
            ranks.once(run.create)
            ranks.once(lambda: run.append(Metrics(0, val_loss=trainer.val_loss)))
            trainer.save()
        except BaseException:  # also Ctrl-C: do not leave a directory that cannot be resumed
            if ranks.rank == 0:
                run.discard()
            raise
        return trainer

    @classmethod
    def resume(cls, directory: str | Path, ranks: Ranks = ALONE) -> Trainer:
        """Open a run at its last checkpoint. The number of ranks may differ from before.

        Raises
        ------
        OSError, ValueError
            The directory is missing, is not a run directory, or is damaged. Or the batch has fewer
            rows than there are ranks.
        ArithmeticError
            The ranks have not read the same checkpoint.
        """
        run = Run.open(directory)
        config = run.config
        model, meta, arrays = run.load()
        expected = config.model_config(len(run.vocabulary))
        if model.config != expected or model.wte.weight.dtype != config.dtype:
            raise ValueError(
                f"{run.checkpoint_path} belongs to another run than {run.config_path}: its model "
                f"is {model.config} of {model.wte.weight.dtype}"
            )
        trainer = cls(run, ranks, model)
        try:
            names = [name for name, _ in model.named_parameters()]
            moments = {key: [arrays[f"{key}/{name}"] for name in names] for key in ("m", "v")}
            trainer.optimizer.load_state_dict({"step_count": meta["step"], **moments})
            trainer.rng.bit_generator.state = meta["rng"]
            model.rng.bit_generator.state = meta["model_rng"]
            trainer.step = trainer.optimizer.step_count
            if trainer.step > config.steps:
                raise ValueError(f"step {trainer.step} is after the last one, steps={config.steps}")
            trainer.val_loss = validate.number("val_loss", meta["val_loss"])
            trainer.seconds = validate.number("seconds", meta["seconds"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"{run.checkpoint_path} cannot be resumed from ({type(error).__name__}: {error})"
            ) from error
        trainer._require_agreement()
        ranks.once(lambda: run.rewind(trainer.step))
        return trainer

    def _require_agreement(self) -> None:
        """Raise ArithmeticError if the ranks are not at the same step with the same weights."""
        if self.ranks.size == 1:
            return
        states = [rng.bit_generator.state for rng in (self.rng, self.model.rng)]
        checksum = zlib.crc32(repr((self.step, states)).encode())
        for parameter in self.optimizer.parameters:
            checksum = zlib.crc32(parameter.data.data, checksum)
        if not self.ranks.agree(checksum):
            raise ArithmeticError(
                f"{self.run.directory}, at step {self.step}: the ranks do not have the same "
                "weights, so the last checkpoint was kept; use the same hardware and libraries for "
                "all ranks"
            )

    def save(self) -> None:
        """Write the checkpoint: everything that `resume` needs, except the files of `Run.create`.

        Raises
        ------
        OSError
            The checkpoint cannot be written.
        ArithmeticError
            The ranks do not have the same weights. The last checkpoint has not changed.
        """
        self._require_agreement()
        names = [name for name, _ in self.model.named_parameters()]
        arrays = {f"m/{name}": m for name, m in zip(names, self.optimizer.m, strict=True)}
        arrays |= {f"v/{name}": v for name, v in zip(names, self.optimizer.v, strict=True)}
        meta = {
            "step": self.step,
            "val_loss": self.val_loss,
            "seconds": self.seconds,
            "rng": self.rng.bit_generator.state,
            "model_rng": self.model.rng.bit_generator.state,
        }
        self.ranks.once(lambda: self.run.save(self.model, arrays=arrays, meta=meta))

    def train_step(self) -> Metrics:
        """Do one step: draw a batch, compute the loss and its gradients, change the weights.

        Raises
        ------
        FloatingPointError
            The gradients are not finite. Weights and moments have not been changed.
        """
        config, rows = self.config, self.batch_rows
        inputs, targets = data.random_batch(
            self.tokens, config.batch_size, config.n_positions, self.rng
        )
        with dropout_of_batch(self.model, config.batch_size, rows):
            loss_of_rows = self.model.train().loss(inputs[rows], targets[rows])
        loss_of_rows.backward(self.batch_share)
        loss = self._sum_over_ranks(loss_of_rows.data * self.batch_share)
        grad_norm = clip_grad_norm(self.optimizer.parameters, config.max_grad_norm)
        self.optimizer.lr = cosine_schedule(
            self.step,
            max_lr=config.lr,
            min_lr=config.min_lr,
            warmup_steps=min(config.warmup_steps, config.steps // 10),
            total_steps=config.steps,
        )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return Metrics(self.step, loss, None, self.optimizer.lr, grad_norm)

    def _sum_over_ranks(self, loss: Array) -> float:
        """Sum the loss and the gradients over all ranks; return the loss, replace the gradients."""
        trained = [p for p in self.optimizer.parameters if p.grad is not None]
        total, *sums = self.ranks.sum([loss, *(p.grad for p in trained if p.grad is not None)])
        for parameter, gradient in zip(trained, sums, strict=True):
            parameter.grad = gradient
        return float(total)

    def validation_loss(self) -> float:
        """Return the mean loss, in nats per character, over windows of the validation part.

        The windows are spread evenly over that part, and are the same every time.

        Raises
        ------
        FloatingPointError
            The loss is not finite.
        """
        config = self.config
        last = len(self.val_tokens) - config.n_positions - 1
        starts = np.linspace(0, last, config.eval_batches * config.batch_size).astype(np.int64)
        losses = []
        with self.model.evaluating():
            for batch in np.split(starts, config.eval_batches):
                own = batch[self.batch_rows]
                inputs, targets = data.windows(self.val_tokens, own, config.n_positions)
                losses.append(self.model.loss(inputs, targets).item())
        loss = float(self.ranks.sum([np.mean(losses) * self.batch_share])[0])
        if not math.isfinite(loss):
            raise FloatingPointError(f"validation loss is {loss}; lower the learning rate")
        return loss

    def train(self, progress: Progress | None = None) -> bool:
        """Do all remaining steps; return False if a signal to any rank (Ctrl-C) stopped them.

        A checkpoint is written after every validation, at the end, and when a signal stops the run.

        Raises
        ------
        FloatingPointError
            A loss or gradient is not finite. The last checkpoint has not changed: only a model
            whose validation loss is finite ever replaces it.
        """
        config = self.config
        progress = progress or Progress(config.steps, self.step)
        first = self.ranks.rank == 0  # only rank 0 writes and reports
        unread: BrokenPipeError | None = None
        began = time.monotonic() - self.seconds
        try:
            with _signals_noted() as noted:
                while self.step < config.steps and not self.ranks.any(bool(noted or unread)):
                    before = time.monotonic()
                    metrics = self.train_step()
                    rate = config.batch_size * config.n_positions / (time.monotonic() - before)
                    milestone = self.step % config.eval_every == 0 or self.step == config.steps
                    if milestone:
                        metrics.val_loss = self.val_loss = self.validation_loss()
                    self.seconds = metrics.seconds = time.monotonic() - began
                    if first:
                        self.run.append(metrics)
                    if milestone:
                        self.save()
                    if first:
                        text = f"loss {metrics.loss:.3f}  val {self.val_loss:.3f}"
                        try:
                            progress.update(self.step, f"{text}  {rate:,.0f} tokens/s", milestone)
                        except BrokenPipeError as error:
                            unread = error  # nobody reads the progress any more, so all ranks stop
                if self.step < config.steps:
                    self.validation_loss()
                    self.save()
        except FloatingPointError as error:
            raise FloatingPointError(
                f"{self.run.directory}, after step {self.step}: {error}"
            ) from error
        finally:
            progress.close()
        if unread:
            raise unread
        return self.step == config.steps


def _new_model(config: TrainingConfig, vocab_size: int, n_rows: int) -> GPT2Model:
    """Return a new model; ValueError if training it on n_rows rows takes too much memory."""
    needed, installed = required_memory(config, vocab_size, n_rows), _installed_memory()
    if needed > installed:
        raise ValueError(
            f"training needs at least {needed >> 30:,} GiB, but this machine has "
            f"{installed / 2**30:,.0f} GiB; take a smaller batch_size, n_positions, n_embd or "
            "n_layer"
        )
    return GPT2Model(config.model_config(vocab_size), rng=config.seed, dtype=config.dtype)


def required_memory(config: TrainingConfig, vocab_size: int, n_rows: int) -> int:
    """Return a lower limit of the memory that training takes, in bytes.

    The limit counts weights, gradients, two moments, and the arrays that the forward pass of n_rows
    rows keeps for the backward pass.
    """
    model = config.model_config(vocab_size)
    C, T = model.n_embd, model.n_positions
    block = 6 * C + 2 * model.n_inner + model.n_head * T // 2  # numbers per token
    activations = n_rows * T * (model.n_layer * block + vocab_size)
    return np.dtype(config.dtype).itemsize * (4 * count_parameters(model) + activations)


def _installed_memory() -> float:
    """Return the memory of this machine in bytes, or infinity if it is unknown."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return math.inf


@contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """Inside this block, the first SIGINT or SIGTERM only adds its number to the yielded list.

    So it never interrupts a step. A second signal of the same kind acts as usual.
    """
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted  # only the main thread may set handlers
        return

    def note(number: int, _frame: object) -> None:
        noted.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
