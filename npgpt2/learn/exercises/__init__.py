"""The exercises of `npgpt2.learn.practice`, one a file, in an order to do them in."""

from __future__ import annotations

from npgpt2.learn.exercises import (
    adamw,
    block,
    causal_attention,
    cross_entropy,
    dropout,
    embedding,
    gelu,
    layer_norm,
    linear,
    residual,
    softmax,
    tied_head,
)
from npgpt2.learn.exercises.exercise import Exercise

EXERCISES: dict[str, Exercise] = {
    exercise.name: exercise
    for exercise in (
        linear.EXERCISE,
        cross_entropy.EXERCISE,
        softmax.EXERCISE,
        gelu.EXERCISE,
        embedding.EXERCISE,
        layer_norm.EXERCISE,
        causal_attention.EXERCISE,
        residual.EXERCISE,
        dropout.EXERCISE,
        tied_head.EXERCISE,
        block.EXERCISE,
        adamw.EXERCISE,
    )
}
