"""Measure how well a model predicts a text. It predicts each token once, from the tokens before it.

Letters: see `npgpt2/config.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from npgpt2 import validate
from npgpt2.generation.language_model import LanguageModel, require_model
from npgpt2.progress import Progress

_IGNORED = -100  # replaces a target that an earlier window has counted


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`: how well a model predicted some tokens.

    Attributes
    ----------
    nats
        -log(p), where p is the probability of all these tokens together. (Natural logarithm.)
    tokens
        Number of these tokens.

    Examples
    --------
    >>> evaluation = Evaluation(nats=10 * math.log(16), tokens=10)
    >>> round(evaluation.perplexity, 9), evaluation.bits_per_byte(20)
    (16.0, 2.0)
    """

    nats: float
    tokens: int

    @property
    def loss(self) -> float:
        """Mean cross entropy, in nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(loss): the number of equally likely tokens that would be as hard to predict.

        It is infinite if it is too large for a float.
        """
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf

    def bits_per_byte(self, n_bytes: int) -> float:
        """Return the loss per byte of a text of n_bytes bytes, in bits.

        Use it to compare models with different tokenizers; their losses and perplexities cannot be
        compared. The first token is not predicted, so the number is a little too small for a short
        text.
        """
        return self.nats / math.log(2.0) / validate.integer("n_bytes", n_bytes)


def evaluate(
    model: LanguageModel,
    tokens: ArrayLike,
    *,
    stride: int | None = None,
    batch_size: int = 8,
    progress: Callable[[int], Progress] | None = None,
) -> Evaluation:
    """Predict every token except the first, once, from the tokens before it.

    A window of n_positions tokens moves over the text, by `stride` tokens at a time. Each window
    predicts the tokens that no earlier window has predicted. So every prediction, except in the
    first window, uses at least n_positions - stride + 1 tokens. The last window ends with the text,
    so it may move by fewer tokens.

    Parameters
    ----------
    model
        It runs without dropout and without a graph. Its training flags are restored.
    tokens
        (n,) integers in [0, V), n at least 2.
    stride
        From 1 (most context, n - n_positions windows) to n_positions (least work). None means
        n_positions // 2.
    batch_size
        Number of windows that are computed at once.
    progress
        A function that takes the number of batches, and returns a `Progress` to update after each
        batch. None shows nothing.

    Returns
    -------
    Evaluation
        The nats, summed in float64, and the number of predicted tokens, n - 1.

    Raises
    ------
    TypeError, ValueError, IndexError
        An argument lies outside its limits, or there are fewer than 2 tokens.
    FloatingPointError
        The loss is not finite.
    """
    P = require_model(model).config.n_positions
    ids = validate.ids("tokens", tokens, model.config.vocab_size)
    if ids.ndim != 1 or ids.size < 2:
        raise ValueError(f"tokens must have shape (n,) with n at least 2, not {ids.shape}")
    stride = max(P // 2, 1) if stride is None else validate.integer("stride", stride)
    if stride > P:
        raise ValueError(
            f"stride={stride} must be at most n_positions={P}, otherwise tokens are left out"
        )
    validate.integer("batch_size", batch_size)

    T = min(P, len(ids) - 1)
    last = len(ids) - 1 - T
    starts = np.minimum(np.arange(0, last + stride, stride), last)
    done = np.concatenate([[0], starts[:-1] + T])  # number of tokens predicted by earlier windows
    batches = range(0, len(starts), batch_size)
    shown = progress(len(batches)) if progress else None
    evaluation, began = Evaluation(0.0, 0), time.monotonic()
    try:
        for number, i in enumerate(batches, start=1):
            batch = slice(i, i + batch_size)
            windows = ids[starts[batch, None] + np.arange(T + 1)]  # (B, T + 1)
            inputs, targets = windows[:, :-1], windows[:, 1:]
            new = starts[batch, None] + np.arange(T) >= done[batch, None]
            with model.evaluating():
                loss = model.loss(inputs, np.where(new, targets, _IGNORED), _IGNORED).item()
            count = int(new.sum())
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"loss is {loss} on the tokens after the first {evaluation.tokens + 1}; check "
                    "the model's weights for NaN"
                )
            evaluation = Evaluation(evaluation.nats + loss * count, evaluation.tokens + count)
            if shown:
                rate = evaluation.tokens / max(time.monotonic() - began, 1e-9)
                text = f"loss {evaluation.loss:.3f}  {rate:,.0f} tokens/s"
                shown.update(number, text, milestone=number == len(batches))
    finally:
        if shown:
            shown.close()
    return evaluation
