"""The exercises of `npgpt2.learn.practice`, one a file, in the order to do them in."""

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
from npgpt2.learn.judge.exercise import Exercise

EXERCISES: dict[str, Exercise] = {
    exercise.name: exercise
    for exercise in map(
        Exercise.of,
        (
            linear,
            cross_entropy,
            softmax,
            gelu,
            embedding,
            layer_norm,
            causal_attention,
            residual,
            dropout,
            tied_head,
            block,
            adamw,
        ),
    )
}
