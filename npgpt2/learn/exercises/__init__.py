"""The exercises of `npgpt2.learn.practice`, one a file, in the order to do them in."""

from __future__ import annotations

from importlib import import_module

from npgpt2.learn.judge.exercise import Exercise

_ORDER = (
    "linear", "cross_entropy", "softmax", "gelu", "embedding", "layer_norm", "causal_attention",
    "residual", "dropout", "tied_head", "block", "adamw",
)  # fmt: skip

EXERCISES = {name: Exercise.of(import_module(f"{__name__}.{name}")) for name in _ORDER}
