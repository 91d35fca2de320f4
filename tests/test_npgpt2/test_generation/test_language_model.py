"""Generation and evaluation need a LanguageModel, and it need not be a GPT-2."""

from __future__ import annotations

import math

import numpy as np

from autograd import Tensor
from npgpt2 import GPT2Config, GPT2Model, Limits, Module, Sampling, complete, evaluate, functional
from npgpt2.cache import KVCache
from npgpt2.generation.language_model import LanguageModel


class Bigrams(Module):
    """Predicts a token from the one before it, by a table of logits (V, V)."""

    def __init__(self, table):
        V = len(table)
        self.config = GPT2Config(vocab_size=V, n_positions=6, n_embd=V, n_layer=1, n_head=1)
        self.table = np.asarray(table, dtype=np.float64)

    def hidden(self, input_ids, cache=None):
        ids = np.asarray(input_ids)
        if cache is not None:
            cache.reserve(*ids.shape)
            cache.advance(ids.shape[1])
        return Tensor(self.table[ids])

    def lm_head(self, hidden):
        return Tensor(getattr(hidden, "data", hidden))

    def forward(self, input_ids, cache=None):
        return self.lm_head(self.hidden(input_ids, cache))

    def loss(self, input_ids, targets, ignore_index=-100):
        return functional.cross_entropy(self(input_ids), targets, ignore_index)

    def make_cache(self, batch_size=1, capacity=None):
        return KVCache(self.config, batch_size, capacity)

    def where_not_finite(self, input_ids):
        return "the table"


NEXT = [1, 2, 3, 0]  # NEXT[i] follows token i
TABLE = 50.0 * np.eye(4)[NEXT]


def test_a_model_of_bigrams_continues_texts():
    model = Bigrams(TABLE)
    one, two = complete(
        model, [[0], [2, 3]], 7, Sampling(0.0), limits=Limits(stop=[2], sliding_window=True)
    )
    assert one.ids.tolist() == [0, 1, 2] and one.stopped
    assert two.ids.tolist() == [2, 3, 0, 1, 2]
    assert np.abs(one.logprobs).max() < 1e-9


def test_a_model_of_bigrams_is_evaluated():
    tokens = [0, 1, 2, 3] * 5
    assert evaluate(Bigrams(TABLE), tokens).nats < 1e-9
    uniform = evaluate(Bigrams(np.zeros((4, 4))), tokens)
    assert math.isclose(uniform.perplexity, 4.0)


def test_its_own_words_are_used_where_logits_are_not_finite():
    try:
        complete(Bigrams(TABLE * np.nan), [[0]], 1)
    except FloatingPointError as error:
        assert str(error) == "logits are not finite: the table"
    else:
        raise AssertionError("no error")


def test_gpt2_is_a_language_model_with_all_that_is_asked_for():
    asked = {name for name in vars(LanguageModel) if not name.startswith("_")}
    model = GPT2Model(GPT2Config(vocab_size=5, n_positions=4, n_embd=4, n_layer=1, n_head=1))
    assert len(asked) > 6 and [name for name in asked if not hasattr(model, name)] == []
