"""Draw a token from logits: temperature, top-k, top-p.

Source of top-p (nucleus) sampling: Holtzman et al., arXiv:1904.09751 (2019), section 3.1; of
top-k: Fan, Lewis & Dauphin, arXiv:1805.04833 (2018), section 5.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from autograd import Array
from npgpt2 import validate
from npgpt2.config import set_field


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from logits.

    Parameters
    ----------
    temperature
        The logits are divided by it. With 0, the most probable token is always taken.
    top_k, top_p
        Keep the top_k most probable tokens. Of these, keep the fewest tokens that together have
        probability top_p or more. Then sample among them. None keeps all tokens. If tokens are
        equally probable, lower ids come first.

    Raises
    ------
    TypeError, ValueError
        temperature < 0, top_k < 1, or top_p outside (0, 1].

    Examples
    --------
    >>> Sampling(top_k=2).probabilities(np.log([0.5, 0.3, 0.2])).round(3)
    array([0.625, 0.375, 0.   ])
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        set_field(self, "temperature", validate.number("temperature", self.temperature))
        if self.top_k is not None:
            set_field(self, "top_k", validate.integer("top_k", self.top_k))
        if self.top_p is not None:
            top_p = validate.number("top_p", self.top_p, maximum=1.0)
            set_field(self, "top_p", validate.positive("top_p", top_p))

    @np.errstate(over="ignore", under="ignore")  # exp(-inf) = 0 is right
    def probabilities(self, logits: ArrayLike) -> Array:
        """Return the probabilities to sample from, float64, rows sum to 1;  (..., V) -> (..., V).

        Raises
        ------
        FloatingPointError
            A logit is infinite or NaN.
        """
        z = _finite(logits).astype(np.float64)
        if self.temperature == 0.0:
            one_hot: Array = np.zeros_like(z)
            np.put_along_axis(one_hot, z.argmax(axis=-1)[..., None], 1.0, axis=-1)
            return one_hot
        p: Array = np.exp((z - z.max(axis=-1, keepdims=True)) / self.temperature)
        p /= p.sum(axis=-1, keepdims=True)
        V = z.shape[-1]
        top_k, top_p = min(self.top_k or V, V), self.top_p or 1.0
        if top_k < V or top_p < 1.0:
            for row in p.reshape(-1, V):
                _truncate(row, top_k, top_p)
        return p

    @np.errstate(under="ignore")
    def draw(
        self, logits: ArrayLike, rng: np.random.Generator | Sequence[np.random.Generator]
    ) -> Array:
        """Draw one token for each row, from the row's probabilities;  (B, V) -> (B,).

        With a sequence of B generators, each row has its own generator.
        """
        if self.temperature == 0.0:
            most_probable: Array = _finite(logits).argmax(axis=-1)
            return most_probable
        cumulative = self.probabilities(logits).cumsum(axis=-1)
        if isinstance(rng, Sequence):
            u = np.array([[generator.random()] for generator in rng])
        else:
            u = rng.random((len(cumulative), 1))
        u *= cumulative[:, -1:]  # the last is 1 up to rounding
        tokens: Array = np.count_nonzero(cumulative <= u, axis=-1)
        return tokens


@dataclass(frozen=True)
class Limits:
    """When a text ends, and which ids may be drawn.

    Parameters
    ----------
    stop
        Id or ids that end a text. The text keeps the id.
    sliding_window
        If a text becomes longer than n_positions, True continues with its last n_positions // 2
        tokens, and False raises an error.
    vocab_size
        Number of ids that stand for a token; None means all ids of the model. Pass it if the
        vocabulary of the model is padded to a rounder number. Then the padding is never drawn.

    Raises
    ------
    TypeError, ValueError
        A value has the wrong type, or vocab_size < 1.
    """

    stop: ArrayLike | None = None
    sliding_window: bool = False
    vocab_size: int | None = None

    def __post_init__(self) -> None:
        if self.stop is not None:  # stored as plain integers, so that Limits can be compared
            stop = np.atleast_1d(validate.integers("stop", self.stop))
            set_field(self, "stop", tuple(stop.ravel().tolist()))
        sliding_window = validate.boolean("sliding_window", self.sliding_window)
        set_field(self, "sliding_window", sliding_window)
        if self.vocab_size is not None:
            set_field(self, "vocab_size", validate.integer("vocab_size", self.vocab_size))

    def ids(self, vocab_size: int) -> tuple[Array, int]:
        """Return (stop ids, number of ids that may be drawn) for a model of this vocabulary.

        Raises
        ------
        ValueError, IndexError
            The stop ids or vocab_size do not fit the model.
        """
        V = self.vocab_size or vocab_size
        if V > vocab_size:
            raise ValueError(f"vocab_size={V} exceeds the model's vocab_size={vocab_size}")
        return validate.ids("stop", [] if self.stop is None else self.stop, V), V


def _finite(logits: ArrayLike) -> Array:
    z = np.asarray(logits)
    if not np.isfinite(z).all():
        raise FloatingPointError("logits are not finite; check the model's weights for NaN")
    return z


def _truncate(p: Array, top_k: int, top_p: float) -> None:
    """Keep the top_k largest probabilities of (V,), and of these the nucleus (top-p); in place."""
    largest = np.flatnonzero(p >= np.partition(p, -top_k)[-top_k])  # with ties, more than top_k
    order = largest[np.argsort(-p[largest], kind="stable")][:top_k]
    ranked = p[order] / p[order].sum()
    before = ranked.cumsum() - ranked  # probability of all that rank higher
    if top_p < 1.0:
        order, ranked = order[before < top_p], ranked[before < top_p]
    p[...] = 0.0
    p[order] = ranked / ranked.sum()
