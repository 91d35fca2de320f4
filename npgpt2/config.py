"""Hyperparameters of a model (GPT2Config, with the published sizes) and a run (TrainingConfig).

All files use these letters for sizes:

    B  batch: rows of a batch
    T  time: tokens of a row
    C  channels of the residual stream, n_embd
    H  heads, n_head
    D  channels of a head, C/H
    V  vocabulary: number of token ids, vocab_size
    P  positions: the longest sequence, n_positions
    S  positions read so far, with the cached ones

A file that uses more letters declares them at its top. In shapes, `...` means any leading axes.

Source of the sizes: Radford et al., Language Models are Unsupervised Multitask Learners (2019),
table 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from npgpt2 import validate

set_field = object.__setattr__  # how a frozen dataclass sets its fields while it is made

SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner")

CHECKS: dict[str, Callable[[str, object], float]] = {  # field -> function that checks its value
    **dict.fromkeys(SIZES, validate.integer),
    "resid_pdrop": validate.fraction,
    "embd_pdrop": validate.fraction,
    "attn_pdrop": validate.fraction,
    "layer_norm_epsilon": validate.positive,
    "initializer_range": validate.positive,
}


@dataclass(frozen=True)
class GPT2Config:
    """Hyperparameters of a GPT-2.

    A configuration is frozen. `dataclasses.replace` makes a changed copy. If you change n_embd with
    it, also pass n_inner=None. Otherwise n_inner keeps its old value.

    Parameters
    ----------
    vocab_size
        V, the number of token ids.
    n_positions
        P, the longest sequence.
    n_embd
        C, the channels of the residual stream; a multiple of n_head.
    n_layer, n_head
        Number of blocks, and number of attention heads in each block.
    n_inner
        Hidden channels of the MLP. None becomes 4 * n_embd.
    resid_pdrop, embd_pdrop, attn_pdrop
        Dropout probabilities in [0, 1): for the output of each sublayer before it is added to the
        residual stream, for the sum of the embeddings, and for the attention weights.
    layer_norm_epsilon
        Added to the variance in each layer norm.
    initializer_range
        Standard deviation of the initial weights.

    Raises
    ------
    TypeError, ValueError
        A value has the wrong type or lies outside its limits. The message names the field and the
        limit.

    Examples
    --------
    >>> GPT2Config(vocab_size=65, n_positions=64, n_embd=128, n_layer=4, n_head=4).n_inner
    512
    """

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int = None  # type: ignore[assignment]  # None becomes a number in __post_init__
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        if self.n_inner is None:
            set_field(self, "n_inner", 4 * validate.integer("n_embd", self.n_embd))
        for name, check in CHECKS.items():
            set_field(self, name, check(name, getattr(self, name)))
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd={self.n_embd} is not divisible by n_head={self.n_head}; "
                "every head needs the same number of channels"
            )

    @staticmethod
    def require(config: object) -> GPT2Config:
        """Return config if it is a GPT2Config; otherwise raise TypeError."""
        return validate.instance(
            "config",
            config,
            GPT2Config,
            "make one with GPT2Config(...), or read a whole model with "
            "GPT2Model.from_pretrained(directory)",
        )

    @property
    def head_size(self) -> int:
        """D = n_embd / n_head."""
        return self.n_embd // self.n_head

    @classmethod
    def gpt2_small(cls, **changes: Any) -> GPT2Config:
        """GPT-2 small: 124M parameters. Keyword arguments change single values."""
        return cls(**{"n_layer": 12, "n_embd": 768, "n_head": 12, **changes})

    @classmethod
    def gpt2_medium(cls, **changes: Any) -> GPT2Config:
        """GPT-2 medium: 355M parameters."""
        return cls(**{"n_layer": 24, "n_embd": 1024, "n_head": 16, **changes})

    @classmethod
    def gpt2_large(cls, **changes: Any) -> GPT2Config:
        """GPT-2 large: 774M parameters."""
        return cls(**{"n_layer": 36, "n_embd": 1280, "n_head": 20, **changes})

    @classmethod
    def gpt2_xl(cls, **changes: Any) -> GPT2Config:
        """GPT-2 XL: 1.5B parameters."""
        return cls(**{"n_layer": 48, "n_embd": 1600, "n_head": 25, **changes})


PRESETS = {
    "gpt2-small": GPT2Config.gpt2_small,
    "gpt2-medium": GPT2Config.gpt2_medium,
    "gpt2-large": GPT2Config.gpt2_large,
    "gpt2-xl": GPT2Config.gpt2_xl,
}


# -- training ------------------------------------------------------------------------------------


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class TrainingConfig:
    """Hyperparameters of a training run. The metadata of each field explains the field.

    `npgpt2 train --help` prints the explanations. The defaults are nanoGPT's settings for a CPU.

    Raises
    ------
    TypeError, ValueError
        A value has the wrong type or lies outside its limits.
    """

    n_layer: int = _option(4, "number of blocks")
    n_head: int = _option(4, "attention heads in each block")
    n_embd: int = _option(128, "channels, a multiple of n_head")
    n_positions: int = _option(64, "context, in characters")
    dropout: float = _option(0.0, "probability of all three kinds of dropout")
    batch_size: int = _option(12, "windows of text in a batch")
    steps: int = _option(2000, "optimizer steps")
    lr: float = _option(1e-3, "learning rate after the warm-up")
    min_lr: float = _option(1e-4, "learning rate at the end of the cosine schedule")
    warmup_steps: int = _option(100, "steps of linear warm-up, at most a tenth of all steps")
    beta1: float = _option(0.9, "AdamW's decay rate for the first moment")
    beta2: float = _option(0.99, "AdamW's decay rate for the second moment")
    weight_decay: float = _option(0.1, "AdamW's weight decay, for matrices only")
    max_grad_norm: float = _option(1.0, "largest joint norm of all gradients, after clipping")
    val_fraction: float = _option(0.1, "fraction of the text, at its end, kept for validation")
    eval_every: int = _option(100, "steps between validations; a checkpoint follows each of them")
    eval_batches: int = _option(20, "batches in a validation, the same ones every time")
    seed: int = _option(0, "seed for weights, batches and dropout")
    dtype: str = _option("float32", "float32 or float64")

    def __post_init__(self) -> None:
        def check(check: Callable[..., object], *names: str, **limits: float) -> None:
            for name in names:
                set_field(self, name, check(name, getattr(self, name), **limits))

        check(validate.integer, "n_layer", "n_head", "n_embd", "n_positions", "batch_size")
        check(validate.integer, "steps", "eval_every", "eval_batches")
        check(validate.integer, "warmup_steps", minimum=0)
        check(validate.integer, "seed", minimum=0, maximum=math.inf)
        check(validate.positive, "lr", "max_grad_norm", "val_fraction")
        check(validate.fraction, "dropout", "beta1", "beta2", "val_fraction")
        check(validate.number, "weight_decay")
        check(validate.number, "min_lr", maximum=self.lr)
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype={validate.shown(self.dtype)} must be float32 or float64")
        self.model_config(vocab_size=1)

    def model_config(self, vocab_size: int) -> GPT2Config:
        """Return the configuration of the run's model."""
        return GPT2Config(
            vocab_size=vocab_size,
            n_positions=self.n_positions,
            n_embd=self.n_embd,
            n_layer=self.n_layer,
            n_head=self.n_head,
            resid_pdrop=self.dropout,
            embd_pdrop=self.dropout,
            attn_pdrop=self.dropout,
        )
