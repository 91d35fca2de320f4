"""The checks that people make, and which check catches which bug.

A detector is a check: a function without arguments that uses the library, and raises an error if
something looks wrong. No detector knows a particular bug. The easiest ones come first: shapes; the
gradient of a sum; "the loss goes down"; gradient checks with random cotangents, by difference
quotients and by complex steps; comparison with a second implementation; statements that hold for
every GPT-2.

>>> from npgpt2.learn.bugs import BUGS
>>> few = [BUGS["softmax-unweighted-mean"], BUGS["gelu-cubic-coefficient"]]
>>> print(format_matrix(measure(few, DETECTORS)))
                         shapes
                         |  sum
                         |  |  loss goes down
                         |  |  |  random cotangent
                         |  |  |  |  complex step
                         |  |  |  |  |  twin
                         |  |  |  |  |  |  statements
softmax-unweighted-mean  .  .  .  x  x  x  .
gelu-cubic-coefficient   .  .  .  .  .  x  x
caught, of 2             0  0  0  1  1  2  1
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import CodeType, FunctionType
from typing import Literal, TypeAlias, cast

import numpy as np

from autograd import Array, Tensor, gradcheck
from npgpt2 import AdamW, GPT2Model, clip_grad_norm, composed
from npgpt2 import functional as F
from npgpt2.learn.bugs import Bug
from npgpt2.learn.cases import (
    CONFIG,
    IDS,
    TARGETS,
    assert_close,
    fused_cases,
    graph_cases,
    make_model,
    model_case,
    primitive_cases,
    with_dropout,
)
from npgpt2.learn.statements import STATEMENTS
from npgpt2.training import data

Detector: TypeAlias = Callable[[], None]

# -- checks that most people make ------------------------------------------------------------------


def shapes() -> None:
    """Check shapes and dtypes of logits, loss, gradients, updated weights and generated ids."""
    model = make_model(with_dropout(0.1), np.float32)
    for training in (True, False):
        model.train(training).zero_grad()
        logits = model(IDS)
        loss = F.cross_entropy(logits, TARGETS)
        loss.backward()
        _has_shape(logits.data, (*IDS.shape, CONFIG.vocab_size))
        _has_shape(loss.data, ())
        for parameter in model.parameters():
            assert parameter.grad is not None
            _has_shape(parameter.grad, parameter.shape)
    before = model.state_dict()
    clip_grad_norm(model.parameters(), 1.0)
    AdamW(model.parameters()).step()
    for name, parameter in model.named_parameters():
        _has_shape(parameter.data, before[name].shape)
    assert model.generate(IDS[:, :3], 3, top_k=2, rng=0).shape == (2, 6)


def _has_shape(array: Array, shape: tuple[int, ...]) -> None:
    assert array.shape == shape and array.dtype == np.float32


def gradient_of_sum() -> None:
    """Compare the gradient of `f(x).sum()` with difference quotients, op by op: g is all ones."""
    for case in (primitive_cases() | fused_cases()).values():
        gradcheck(partial(_sum_of, case.f), case.inputs, cotangent=1.0, directions=1)


def _sum_of(f: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    return f(*inputs).sum()


def loss_goes_down() -> None:
    """Train 50 steps on one batch: the loss must go down by at least a fifth."""
    config = with_dropout(0.1, replace(CONFIG, n_layer=1))
    model = GPT2Model(config)
    tokens = np.random.default_rng(0).integers(config.vocab_size, size=40)
    inputs, targets = data.windows(tokens, np.array([0, 9, 21]), config.n_positions)
    optimizer = AdamW(model.parameters(), lr=0.02)
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


# -- numeric derivatives ---------------------------------------------------------------------------


def _check_gradients(mode: Literal["directional", "complex"]) -> None:
    for case in (primitive_cases() | graph_cases() | fused_cases()).values():
        if case.analytic or mode != "complex":
            gradcheck(case.f, case.inputs, mode=mode, directions=1)
    loss, parameters = model_case()
    gradcheck(loss, parameters, mode=mode, directions=1)


def random_cotangent() -> None:
    """Compare the gradients of all ops and of a model with difference quotients: g is random."""
    _check_gradients("directional")


def complex_step() -> None:
    """Compare the same gradients with complex-step derivatives, which are exact up to rounding."""
    _check_gradients("complex")


# -- a second implementation -----------------------------------------------------------------------


def twin() -> None:
    """Compare each fused op with its composed twin, in value and gradients."""
    for ours, theirs in zip(fused_cases().values(), fused_cases(composed).values(), strict=True):
        value, gradients, _ = ours.differentiate()
        expected, expected_gradients, _ = theirs.differentiate()
        assert_close(value, expected)
        for gradient, other in zip(gradients, expected_gradients, strict=True):
            assert_close(gradient, other)


# -- which check catches which bug -----------------------------------------------------------------


@dataclass(frozen=True)
class AllOf:
    """Check that statements about GPT-2 hold; see `npgpt2/learn/statements.py`."""

    parts: tuple[Detector, ...]

    def __call__(self) -> None:
        """Call each part."""
        for part in self.parts:
            part()


DETECTORS: dict[str, Detector] = {
    "shapes": shapes,
    "sum": gradient_of_sum,
    "loss goes down": loss_goes_down,
    "random cotangent": random_cotangent,
    "complex step": complex_step,
    "twin": twin,
    "statements": AllOf(tuple(STATEMENTS.values())),
}

Matrix: TypeAlias = dict[str, dict[str, bool]]


def catches(detector: Detector) -> bool:
    """Call a detector and return whether it raises. A warning does not count."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            detector()
        except Exception:
            return True
    return False


def measure(bugs: Iterable[Bug], detectors: Mapping[str, Detector]) -> Matrix:
    """Return for each bug, by name, whether each detector catches it.

    It calls only detectors that run the function with the bug: the others cannot catch the bug.
    """
    parts = {name: d.parts if isinstance(d, AllOf) else (d,) for name, d in detectors.items()}
    ran = {part: code_run_by(part) for several in parts.values() for part in several}
    matrix: Matrix = {}
    for bug in bugs:
        code = cast(FunctionType, bug.function).__code__
        with bug.injected():
            matrix[bug.name] = {
                name: any(code in ran[part] and catches(part) for part in several)
                for name, several in parts.items()
            }
    return matrix


def code_run_by(detector: Detector) -> set[CodeType]:
    """Call a detector and return the code of all functions that ran."""
    code = set()
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, _: code.add(frame.f_code) if event == "call" else None)
    try:
        detector()
    finally:
        sys.setprofile(before)
    return code


def format_matrix(matrix: Matrix) -> str:
    """Return the matrix as text: one row per bug, one column per detector, x caught, . missed."""
    columns = list(next(iter(matrix.values()), {}))
    totals = [f"{sum(row[name] for row in matrix.values())}" for name in columns]
    label = f"caught, of {len(matrix)}"
    width, cell = max(map(len, [*matrix, label])) + 2, max(map(len, [*totals, ""])) + 2

    def line(start: str, cells: Iterable[str]) -> str:
        return (start.ljust(width) + "".join(c.ljust(cell) for c in cells)).rstrip()

    head = [line("", ["|"] * i + [name]) for i, name in enumerate(columns)]
    body = [line(bug, (".x"[caught] for caught in row.values())) for bug, row in matrix.items()]
    return "\n".join([*head, *body, line(label, totals)])
