"""What generation and evaluation ask of a model. `GPT2Model` is one; yours may be another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from numpy.typing import ArrayLike

from autograd import Operand, Tensor
from npgpt2.cache import KVCache
from npgpt2.config import GPT2Config
from npgpt2.module import Module


class LanguageModel(Protocol):
    """A model that predicts the next token. Letters: B batch, T time, C channels, V vocabulary."""

    @property
    def config(self) -> GPT2Config:
        """Its configuration; only vocab_size and n_positions are asked for."""

    @property
    def lm_head(self) -> Callable[[Operand], Tensor]:
        """The head: (..., C) -> (..., V), the logits of the next token."""

    def hidden(self, input_ids: ArrayLike, cache: KVCache | None = None) -> Tensor:
        """(B, T) ids -> (B, T, C), the input of the head. A cache has read the tokens before."""

    def __call__(self, input_ids: ArrayLike, cache: KVCache | None = None) -> Tensor:
        """(B, T) ids -> (B, T, V), logits: the head of `hidden`."""

    def loss(self, input_ids: ArrayLike, targets: ArrayLike, ignore_index: int = -100) -> Tensor:
        """Mean cross entropy of the targets, in nats."""

    def make_cache(self, batch_size: int = 1, capacity: int | None = None) -> KVCache:
        """Return an empty cache for this model."""

    def evaluating(self) -> AbstractContextManager[None]:
        """Switch dropout and the graph off inside a block."""

    def modules(self) -> Iterator[Module]:
        """Yield every module whose training flag switches dropout on."""

    def where_not_finite(self, input_ids: ArrayLike) -> str:
        """Say in words where the first value stands that is infinite or NaN."""
