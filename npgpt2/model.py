"""GPT-2: attention, MLP, the block made of both, and the model made of blocks.

    ids (B, T) -> wte + wpe -> drop -> h[0] ... h[n_layer-1] -> ln_f -> lm_head -> logits (B, T, V)

The published checkpoints use the same names. `GPT2Model` draws all weights in one place. Until
then, all matrices are 0. The `rng` of the other classes is for dropout only. Letters: see
`config.py`.

Source: Radford et al., Language Models are Unsupervised Multitask Learners (2019), section 2.3:
layer norm moved to the input of each sublayer, one more layer norm after the last block, smaller
initial weights in the residual projections.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from autograd import Array, Tensor, is_recorded
from npgpt2 import functional as F
from npgpt2 import validate
from npgpt2.cache import KVCache, Past
from npgpt2.config import GPT2Config
from npgpt2.layers import Dropout, Embedding, LayerNorm, Linear, fill_normal
from npgpt2.module import Module

if TYPE_CHECKING:
    from npgpt2.disk.checkpoint import Checkpoint
    from npgpt2.generation.generation import Seed


class CausalSelfAttention(Module):
    """Multi-head attention in which position t sees positions 0 to t;  (B, T, C) -> (B, T, C)."""

    def __init__(
        self,
        config: GPT2Config,
        rng: np.random.Generator | int = 0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        C, rng = (
            GPT2Config.require(config).n_embd,
            np.random.default_rng(rng),
        )  # one generator for both dropouts
        self.n_head = config.n_head
        self.c_attn = Linear(C, 3 * C, dtype=dtype)  # queries, keys, values
        self.c_proj = Linear(C, C, dtype=dtype)
        self.attn_dropout = Dropout(config.attn_pdrop, rng)
        self.resid_dropout = Dropout(config.resid_pdrop, rng)

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C); if there is a past, the positions of x follow it."""
        qkv = self.c_attn(x)  # (B, T, C) -> (B, T, 3C)
        if past is None:
            drop = self.attn_dropout
            p = drop.p if drop.training else 0.0
            x = F.causal_attention(qkv, self.n_head, p, drop.rng)  # (B, T, 3C) -> (B, T, C)
        else:
            x = F.cached_attention(qkv, self.n_head, past)
        return self.resid_dropout(self.c_proj(x))


class MLP(Module):
    """Two linear layers with a GELU between them;  (B, T, C) -> (B, T, n_inner) -> (B, T, C)."""

    def __init__(
        self,
        config: GPT2Config,
        rng: np.random.Generator | int = 0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        config = GPT2Config.require(config)
        self.c_fc = Linear(config.n_embd, config.n_inner, dtype=dtype)
        self.c_proj = Linear(config.n_inner, config.n_embd, dtype=dtype)
        self.dropout = Dropout(config.resid_pdrop, rng)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x))))


class TransformerBlock(Module):
    """Attention, then MLP; each reads the normalised residual stream and adds its output to it."""

    def __init__(
        self,
        config: GPT2Config,
        rng: np.random.Generator | int = 0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        config, rng = GPT2Config.require(config), np.random.default_rng(rng)
        self.ln_1 = LayerNorm(config.n_embd, config.layer_norm_epsilon, dtype=dtype)
        self.attn = CausalSelfAttention(config, rng, dtype)
        self.ln_2 = LayerNorm(config.n_embd, config.layer_norm_epsilon, dtype=dtype)
        self.mlp = MLP(config, rng, dtype)

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C); if there is a past, the positions of x follow it."""
        x = x + self.attn(self.ln_1(x), past)
        return x + self.mlp(self.ln_2(x))


class GPT2Model(Module):
    """GPT-2 with its language-modelling head.

    Parameters
    ----------
    config
        The hyperparameters.
    rng
        Seed or generator. It draws the initial weights first, then the dropout masks.
    dtype
        float32 or float64.
    init_weights
        False leaves all matrices at 0, and draws nothing. Use it if you load weights next.

    Attributes
    ----------
    config
        The hyperparameters.
    wte, wpe
        Embeddings of tokens (V, C) and of positions (P, C).
    drop
        Dropout for the sum of both embeddings.
    h
        The blocks, a list.
    ln_f
        The last layer norm.
    lm_head
        Linear without bias. Its weight *is* `wte.weight`: one Parameter with two uses.
        Source: Press & Wolf, arXiv:1608.05859 (2016), section 2.
    rng
        The generator for dropout in training mode.

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
        self.config = config = GPT2Config.require(config)
        V, P, C = config.vocab_size, config.n_positions, config.n_embd
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
        """Draw matrices of standard deviation initializer_range; biases stay 0, gains stay 1.

        The weights of the 2 * n_layer projections that add to the residual stream are scaled by
        1/sqrt(2 * n_layer), so that the variance of the stream does not grow with the depth.
        """
        std = self.config.initializer_range
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                residual = name.endswith("c_proj.weight")
                scale = 1.0 / math.sqrt(2 * self.config.n_layer) if residual else 1.0
                fill_normal(parameter.data, std * scale, self.rng)

    def forward(self, input_ids: ArrayLike, cache: KVCache | None = None) -> Tensor:
        """Return the logits (before softmax) of the next token at every position, (B, T, V).

        `hidden` describes the parameters and the errors.
        """
        return self.lm_head(self.hidden(input_ids, cache))  # (B, T, C) -> (B, T, V)

    def loss(self, input_ids: ArrayLike, targets: ArrayLike, ignore_index: int = -100) -> Tensor:
        """Return the cross entropy of the logits, in nats, without keeping the logits.

        It equals `functional.cross_entropy(model(input_ids), targets, ignore_index)`, and takes
        less memory and time. `hidden` and `cross_entropy` describe the parameters and the errors.
        """
        if self.lm_head.bias is not None:  # the user has put in another head
            return F.cross_entropy(self(input_ids), targets, ignore_index)
        x = self.hidden(input_ids)
        return F.linear_cross_entropy(x, self.lm_head.weight, targets, ignore_index)

    def hidden(self, input_ids: ArrayLike, cache: KVCache | None = None) -> Tensor:
        """Return the input of the head: the residual stream after the last layer norm.

        Parameters
        ----------
        input_ids
            (B, T) integers in [0, V), array-like; 1 <= T <= n_positions.
        cache
            A cache with the tokens read before. input_ids follow them, and are added to the cache.
            Use it only inside `with model.evaluating():`, because a cache passes on no gradient.

        Returns
        -------
        Tensor
            (B, T, C).

        Raises
        ------
        TypeError, IndexError, ValueError
            The ids are not integers, are out of range, do not have two axes, are empty, or are too
            many in a row. Or the cache belongs to another model, has another number of rows, or has
            no room for the ids.
        RuntimeError
            There is a cache, but dropout is on, or a graph is being recorded.
        """
        ids = _rows(input_ids)
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
                    "a cache works only without gradients and dropout; use it inside "
                    "`with model.evaluating():`"
                )
            cache.require_model(self.config, self.wte.weight.dtype)
            pasts, positions = cache.reserve(B, T)
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
        """Return the number of entries of all parameters; the tied one counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def generate(
        self,
        input_ids: ArrayLike,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        rng: Seed | Sequence[Seed] = None,
        stop: ArrayLike | None = None,
        sliding_window: bool = False,
        vocab_size: int | None = None,
    ) -> Array:
        """Continue each row of input_ids; return the prompts and the new tokens, (B, T + new).

        Parameters
        ----------
        input_ids, max_new_tokens, rng
            See `npgpt2.generation.generation.generate`, also for the errors.
        temperature, top_k, top_p
            How a token is drawn; see `npgpt2.generation.sampling.Sampling`.
        stop, sliding_window, vocab_size
            When a text ends, and which ids may be drawn; see `npgpt2.generation.sampling.Limits`.
        """
        from npgpt2.generation.generation import generate
        from npgpt2.generation.sampling import Limits, Sampling

        sampling = Sampling(temperature, top_k, top_p)
        limits = Limits(stop, sliding_window, vocab_size)
        return generate(self, input_ids, max_new_tokens, sampling, rng, limits)

    def where_not_finite(self, input_ids: ArrayLike) -> str:
        """Say which parameter or block has the first value that is infinite or NaN.

        Returns
        -------
        str
            A sentence. It is empty if all parameters and the outputs of all blocks are finite.
        """
        for name, parameter in self.named_parameters():
            finite = np.isfinite(parameter.data)
            if not finite.all():
                place = tuple(int(i) for i in np.unravel_index(finite.argmin(), finite.shape))
                return f"parameter {name} has {parameter.data[place]} at {list(place)}"
        with self.evaluating(), np.errstate(all="ignore"):
            ids = _rows(input_ids)
            x = self.wte(ids) + self.wpe(np.arange(ids.shape[1]))
            for i, block in enumerate(self.h):
                x = block(x)
                if not np.isfinite(x.data).all():
                    return f"all parameters are finite, but the output of h.{i} is not"
        return ""

    # -- on disk -----------------------------------------------------------------------------

    @classmethod
    def from_arrays(
        cls,
        config: GPT2Config,
        arrays: Iterable[tuple[str, Array]],
        dtype: DTypeLike = np.float32,
    ) -> GPT2Model:
        """Make a model from arrays, in eval mode.

        Parameters
        ----------
        config
            The hyperparameters.
        arrays
            (name, array) for every parameter, in the given dtype. The arrays become the parameters
            without a copy. They are taken one at a time, so an iterator can make each when needed.
        dtype
            float32 or float64.

        Raises
        ------
        ValueError
            A parameter gets no array, or an array has a name, a shape or a dtype that does not fit.
        """
        model = cls(config, dtype=dtype, init_weights=False).eval()
        waiting = dict(model.named_parameters())
        shapes = {name: parameter.shape for name, parameter in waiting.items()}
        for parameter in waiting.values():
            parameter.data = np.empty(0, dtype)  # frees the zeros before the arrays come
        for name, array in arrays:
            if shapes.get(name) != array.shape or array.dtype != dtype:
                raise ValueError(
                    f"{name} is {array.shape} {array.dtype}, but the model needs "
                    f"{shapes.get(name, 'no such parameter')} {np.dtype(dtype)}"
                )
            waiting.pop(name).data = array
        if waiting:
            raise ValueError(f"no arrays for {', '.join(waiting)}")
        return model

    @classmethod
    def from_pretrained(
        cls, directory: str | os.PathLike[str], dtype: DTypeLike = np.float32
    ) -> GPT2Model:
        """Read a model from a directory that transformers has written, in eval mode.

        `npgpt2.disk.huggingface.read` and `Pretrained.arrays` describe the errors, and which arrays
        are mapped or copied.
        """
        from npgpt2.disk import huggingface

        kind = validate.dtype(dtype)
        pretrained = huggingface.read(directory)
        return cls.from_arrays(pretrained.config, pretrained.arrays(kind), kind)

    def save_pretrained(
        self, directory: str | os.PathLike[str], eos_token_id: int | None = 50256
    ) -> None:
        """Write a directory that transformers can load; see `npgpt2.disk.huggingface.write`."""
        from npgpt2.disk import huggingface

        huggingface.write(directory, self.config, self._arrays(), eos_token_id)

    @classmethod
    def load_npz(cls, path: str | os.PathLike[str]) -> GPT2Model:
        """Read a model that `save_npz` has written, in the dtype of the file, in eval mode.

        Raises
        ------
        OSError
            The file does not exist, or cannot be read.
        ValueError
            The file is not a checkpoint of npgpt2, or is damaged.
        """
        from npgpt2.disk import checkpoint

        return cls.from_checkpoint(checkpoint.load_npz(path))

    @classmethod
    def from_checkpoint(cls, saved: Checkpoint) -> GPT2Model:
        """Make a model from a checkpoint, in eval mode; ValueError if it is not a whole model."""
        from npgpt2.disk.checkpoint import Checkpoint
        from npgpt2.parameter_table import count_parameters

        validate.instance("saved", saved, Checkpoint, "GPT2Model.load_npz(path) reads a file")
        size = count_parameters(saved.config)
        held = sum(array.size for array in saved.parameters.values())
        try:
            if size > 2 * held:  # checked before anything of this size is made
                raise ValueError(
                    f"its configuration asks for {size:,} numbers, but it holds {held:,}"
                )
            dtype = saved.parameters["wte.weight"].dtype
            model = cls(saved.config, dtype=dtype, init_weights=False).eval()
            model.load_state_dict(saved.parameters, assign=True)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{saved.path} does not hold a whole model: {error}") from error
        return model

    def save_npz(
        self,
        path: str | os.PathLike[str],
        *,
        arrays: Mapping[str, Array] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        """Write configuration and parameters to one file; see `npgpt2.disk.checkpoint.save_npz`."""
        from npgpt2.disk import checkpoint

        checkpoint.save_npz(path, self.config, self._arrays(), arrays=arrays, meta=meta)

    def _arrays(self) -> dict[str, Array]:
        return {name: parameter.data for name, parameter in self.named_parameters()}


def _rows(input_ids: ArrayLike) -> Array:
    """Return ids as an array; ValueError if its shape is not (B, T)."""
    ids = validate.integers("input_ids", input_ids)
    if ids.ndim != 2 or not ids.size:
        raise ValueError(
            f"input_ids must have shape (B, T) with B and T at least 1, not {ids.shape}"
        )
    return ids
