"""The methods that generation and evaluation call on a model. `GPT2Model` has them; yours can too.

Letters: see `npgpt2/config.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from numpy.typing import ArrayLike

from autograd import Operand, Tensor
from npgpt2 import validate
from npgpt2.cache import KVCache
from npgpt2.config import GPT2Config
from npgpt2.module import Module


class LanguageModel(Protocol):
    """A model that predicts the next token."""

    @property
    def config(self) -> GPT2Config:
        """The configuration; only its vocab_size and n_positions are used."""

    @property
    def lm_head(self) -> Callable[[Operand], Tensor]:
        """The head: (..., C) -> (..., V), the logits of the next token."""

    def hidden(self, input_ids: ArrayLike, cache: KVCache | None = None) -> Tensor:
        """(B, T) ids -> (B, T, C), the input of the head. A cache has the tokens read before."""

    def __call__(self, input_ids: ArrayLike, cache: KVCache | None = None) -> Tensor:
        """(B, T) ids -> (B, T, V), the logits: the head applied to `hidden`."""

    def loss(self, input_ids: ArrayLike, targets: ArrayLike, ignore_index: int = -100) -> Tensor:
        """Return the mean cross entropy of the targets, in nats."""

    def make_cache(self, batch_size: int = 1, capacity: int | None = None) -> KVCache:
        """Return an empty cache for this model."""

    def evaluating(self) -> AbstractContextManager[None]:
        """Use no dropout and record no graph inside a `with` block."""

    def modules(self) -> Iterator[Module]:
        """Yield every module that has a training flag for dropout."""

    def where_not_finite(self, input_ids: ArrayLike) -> str:
        """Say which parameter or block has the first infinite or NaN value; "" if there is none."""


def require_model(model: LanguageModel) -> LanguageModel:
    """Return a model with a configuration; otherwise raise TypeError."""
    if not hasattr(model, "config"):
        raise TypeError(
            f"model must be a GPT2Model or another LanguageModel, not {validate.shown(model)}; "
            "GPT2Model.from_pretrained(directory) reads one"
        )
    return model
