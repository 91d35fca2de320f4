"""GPT-2: attention, MLP, the block made of both, and the model made of blocks.

    ids (B, T) -> wte + wpe -> drop -> h[0] ... h[n_layer-1] -> ln_f -> lm_head -> logits (B, T, V)

Names are those of the published checkpoints. Weights are 0 until GPT2Model draws them, all in one
place; the `rng` of the parts is that of dropout. Source: Radford et al., Language Models are
Unsupervised Multitask Learners (2019), section 2.3: layer norm moved to the input of each
sublayer, one more after the last block, residual projections initialised smaller.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from autograd import Tensor, is_recorded
from npgpt2 import functional as F
from npgpt2 import generation
from npgpt2.cache import KVCache, Past
from npgpt2.config import GPT2Config
from npgpt2.layers import Dropout, Embedding, LayerNorm, Linear, fill_normal
from npgpt2.module import Module


class CausalSelfAttention(Module):
    """Multi-head attention in which position t sees positions 0 to t;  (B, T, C) -> (B, T, C)."""

    def __init__(
        self,
        config: GPT2Config,
        rng: np.random.Generator | int = 0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        C, rng = config.n_embd, np.random.default_rng(rng)  # one generator for all dropout here
        self.n_head = config.n_head
        self.c_attn = Linear(C, 3 * C, dtype=dtype)  # queries, keys, values
        self.c_proj = Linear(C, C, dtype=dtype)
        self.attn_dropout = Dropout(config.attn_pdrop, rng)
        self.resid_dropout = Dropout(config.resid_pdrop, rng)

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C); with a past, of rows that follow others."""
        qkv = self.c_attn(x)  # (B, T, C) -> (B, T, 3C)
        if past is None:
            drop = self.attn_dropout
            p = drop.p if drop.training else 0.0
            x = F.causal_attention(qkv, self.n_head, p, drop.rng)  # (B, T, 3C) -> (B, T, C)
        else:
            x = F.cached_attention(qkv, self.n_head, past)
        return self.resid_dropout(self.c_proj(x))


class MLP(Module):
    """Two linear layers with a GELU between;  (B, T, C) -> (B, T, n_inner) -> (B, T, C)."""

    def __init__(
        self,
        config: GPT2Config,
        rng: np.random.Generator | int = 0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.c_fc = Linear(config.n_embd, config.n_inner, dtype=dtype)
        self.c_proj = Linear(config.n_inner, config.n_embd, dtype=dtype)
        self.dropout = Dropout(config.resid_pdrop, rng)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x))))


class TransformerBlock(Module):
    """Attention and MLP, each reading a normalised copy of the residual stream and adding to it."""

    def __init__(
        self,
        config: GPT2Config,
        rng: np.random.Generator | int = 0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        rng = np.random.default_rng(rng)
        self.ln_1 = LayerNorm(config.n_embd, config.layer_norm_epsilon, dtype=dtype)
        self.attn = CausalSelfAttention(config, rng, dtype)
        self.ln_2 = LayerNorm(config.n_embd, config.layer_norm_epsilon, dtype=dtype)
        self.mlp = MLP(config, rng, dtype)

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C); with a past, of rows that follow others."""
        x = x + self.attn(self.ln_1(x), past)
        return x + self.mlp(self.ln_2(x))


class GPT2Model(Module):
    """GPT-2 with its language-modelling head.

    Parameters
    ----------
    config
        The hyperparameters.
    rng
        Seed or generator: of the initial weights, and of dropout afterwards.
    dtype
        float32 or float64.
    init_weights
        False leaves weights at 0, and draws nothing, for those who load others next.

    Attributes
    ----------
    config
        The config given.
    wte, wpe
        Embeddings of tokens (V, C) and of positions (P, C).
    drop
        Dropout of their sum.
    h
        The blocks, a list.
    ln_f
        The last layer norm.
    lm_head
        Linear without bias; its weight *is* `wte.weight`, one Parameter with two uses.
        Source: Press & Wolf, arXiv:1608.05859 (2016), section 2.
    rng
        The generator that dropout draws from in training mode.

    Examples
    --------
    >>> config = GPT2Config(vocab_size=10, n_positions=8, n_embd=16, n_layer=2, n_head=2)
    >>> model = GPT2Model(config).eval()
    >>> logits = model([[1, 2, 3]])
    >>> logits.shape
    (1, 3, 10)
    >>> F.cross_entropy(logits, [[2, 3, 4]]).backward()
    >>> model.wte.weight.grad.shape
    (10, 16)
    """

    def __init__(
        self,
        config: GPT2Config,
        rng: np.random.Generator | int = 0,
        dtype: DTypeLike = np.float32,
        init_weights: bool = True,
    ) -> None:
        V, P, C = config.vocab_size, config.n_positions, config.n_embd
        self.config = config
        self.rng = np.random.default_rng(rng)
        self.wte = Embedding(V, C, dtype=dtype)
        self.wpe = Embedding(P, C, dtype=dtype)
        self.drop = Dropout(config.embd_pdrop, self.rng)
        self.h = [TransformerBlock(config, self.rng, dtype) for _ in range(config.n_layer)]
        self.ln_f = LayerNorm(C, config.layer_norm_epsilon, dtype=dtype)
        self.lm_head = Linear(C, V, bias=False, dtype=dtype)
        self.lm_head.weight = self.wte.weight
        if init_weights:
            self._init_weights()

    def _init_weights(self) -> None:
        """Draw weights from N(0, initializer_range); biases stay 0 and gains 1.

        The projections that add to the residual stream (2 * n_layer of them) are scaled by
        1/sqrt(2 * n_layer), so that its variance does not grow with depth.
        """
        std = self.config.initializer_range
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                residual = name.endswith("c_proj.weight")
                scale = 1.0 / math.sqrt(2 * self.config.n_layer) if residual else 1.0
                fill_normal(parameter.data, std * scale, self.rng)

    def forward(self, input_ids: ArrayLike, cache: KVCache | None = None) -> Tensor:
        """Return the logits of the next token at every position: before softmax, (B, T, V).

        Parameters and errors are those of `hidden`.
        """
        return self.lm_head(self.hidden(input_ids, cache))  # (B, T, C) -> (B, T, V)

    def loss(self, input_ids: ArrayLike, targets: ArrayLike, ignore_index: int = -100) -> Tensor:
        """Return the cross entropy of the logits, in nats, without keeping the logits.

        The same as `functional.cross_entropy(model(input_ids), targets, ignore_index)`, in less
        memory and time; parameters and errors are those of `hidden` and of `cross_entropy`.
        """
        if self.lm_head.bias is not None:  # a head of one's own
            return F.cross_entropy(self(input_ids), targets, ignore_index)
        x = self.hidden(input_ids)
        return F.linear_cross_entropy(x, self.lm_head.weight, targets, ignore_index)

    def hidden(self, input_ids: ArrayLike, cache: KVCache | None = None) -> Tensor:
        """Return what the head reads: the residual stream after the last layer norm.

        Parameters
        ----------
        input_ids
            (B, T) integers in [0, V), array-like; 1 <= T <= n_positions.
        cache
            What has been read before: input_ids follow it, and are added to it. For values alone,
            inside `with model.evaluating():`.

        Returns
        -------
        Tensor
            (B, T, C).

        Raises
        ------
        TypeError, IndexError, ValueError
            Ids are not integers, out of range, not of two axes, none, or too many in a row; or the
            cache is one for another model or number of rows, or has no room for them.
        RuntimeError
            A cache while training: neither gradients nor dropout go through it.
        """
        ids = np.asarray(input_ids)
        if ids.ndim != 2 or not ids.size:
            raise ValueError(
                f"input_ids must have shape (B, T) with B and T at least 1, not {ids.shape}"
            )
        (B, T), P = ids.shape, self.config.n_positions
        if T > P:
            raise ValueError(
                f"sequence of {T} tokens exceeds n_positions={P}; crop to input_ids[:, -{P}:]"
            )
        pasts: Sequence[Past | None] = [None] * len(self.h)
        positions = np.arange(T)
        if cache is not None:
            if self.training or is_recorded(self.wte.weight):
                raise RuntimeError(
                    "a cache takes neither gradients nor dropout; use it inside "
                    "`with model.evaluating():`"
                )
            cache.require_model(self.config, self.wte.weight.dtype)
            pasts, positions = cache.after(B, T)
        x = self.drop(self.wte(ids) + self.wpe(positions))  # (B, T) -> (B, T, C)
        for block, past in zip(self.h, pasts, strict=True):
            x = block(x, past)
        if cache is not None:
            cache.advance(T)
        return self.ln_f(x)

    def make_cache(self, batch_size: int = 1, capacity: int | None = None) -> KVCache:
        """Return an empty cache for this model; see `KVCache`."""
        return KVCache(self.config, batch_size, capacity, self.wte.weight.dtype)

    def get_num_params(self) -> int:
        """Count the entries of all parameters, the tied one once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def generate(
        self,
        input_ids: ArrayLike,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        rng: generation.Seed | Sequence[generation.Seed] = None,
        stop: ArrayLike | None = None,
        sliding_window: bool = False,
        vocab_size: int | None = None,
    ) -> NDArray[Any]:
        """Continue each row of input_ids; see `npgpt2.generation.generate`."""
        return generation.generate(
            self, input_ids, max_new_tokens, temperature, top_k, top_p, rng, stop, sliding_window,
            vocab_size,
        )  # fmt: skip

    def save_pretrained(
        self, directory: str | os.PathLike[str], eos_token_id: int | None = 50256
    ) -> None:
        """Write a directory that transformers can load; see `npgpt2.huggingface.save`."""
        from npgpt2 import huggingface  # which imports this file

        huggingface.save(self, directory, eos_token_id)

    @staticmethod
    def from_pretrained(
        directory: str | os.PathLike[str], dtype: DTypeLike = np.float32
    ) -> GPT2Model:
        """Read a directory that transformers has written; see `npgpt2.huggingface.load`."""
        from npgpt2 import huggingface  # which imports this file

        return huggingface.load(directory, dtype)
