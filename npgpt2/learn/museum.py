"""The bugs on show: which detector sees which, and how the loss of a training with one looks.

`npgpt2 museum` prints the whole matrix of `detectors.py`, measured then and there;
`npgpt2 museum NAME` shows one bug: its lesson, what is changed, who catches it and who does not,
and the loss of a small training with it, beside that of the same training without.
"""

from __future__ import annotations

import difflib
import math
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import cast

import numpy as np

from npgpt2 import AdamW, GPT2Config, GPT2Model, clip_grad_norm, cosine_schedule, validate
from npgpt2 import functional as F
from npgpt2.disk.tokenizer import Vocabulary
from npgpt2.learn import detectors
from npgpt2.learn.bugs import BUGS, Bug
from npgpt2.learn.detectors import DETECTORS, PROPERTIES, format_matrix, measure
from npgpt2.progress import Progress
from npgpt2.training import data

STEPS = 60


def main(name: str = "") -> None:
    """Print one bug, or the matrix of all that have `name` in theirs, with progress meanwhile.

    Raises
    ------
    ValueError
        No bug has such a name.
    """
    if name in BUGS:
        print(show(BUGS[name]))
    else:
        print(matrix(name, Progress))
        print("\nx caught, . missed; one of them, with its loss curve: npgpt2 museum NAME")


def find(part: str = "") -> list[Bug]:
    """Return the bugs with `part` in their names, in the order of the catalogue.

    >>> [bug.name for bug in find("tanh")]
    ['tanh-square-forgotten', 'tanh-forgets-cotangent']

    Raises
    ------
    ValueError
        There is none; names that are close are listed.
    """
    found = [bug for name, bug in BUGS.items() if part in name]
    if not found:
        close = difflib.get_close_matches(part, BUGS, n=5)
        hint = f"is it {' or '.join(close)}?" if close else "npgpt2 museum lists all"
        raise ValueError(f"none of the {len(BUGS)} bugs has {part!r} in its name; {hint}")
    return found


def matrix(part: str = "", progress: Callable[[int], Progress] | None = None) -> str:
    """Return the matrix of `find(part)` against all detectors, measured now.

    Parameters
    ----------
    part
        A part of the names of the bugs wanted; all by default, which takes tens of seconds.
    progress
        Makes what shows progress, given the number of bugs: `Progress`, or nothing if None.

    Raises
    ------
    ValueError
        As for `find`.
    """
    bugs = find(part)
    shown = progress(len(bugs)) if progress else None

    def one_by_one() -> Iterator[Bug]:
        for done, bug in enumerate(bugs):
            if shown:
                shown.update(done, bug.name)
            yield bug

    try:
        return format_matrix(measure(one_by_one(), DETECTORS))
    finally:
        if shown:
            shown.close()


# -- one bug ---------------------------------------------------------------------------------------


def show(bug: Bug) -> str:
    """Return all there is to see of a bug: lesson, diff, detectors, and its loss curve."""
    caught, missed = _by_whom(bug)
    return "\n\n".join(
        [
            f"{bug.name}, in {bug.title}",
            textwrap.fill(bug.lesson, 80),
            bug.diff(),
            _listed("caught by", caught) + "\n" + _listed("missed by", missed),
            _training_with(bug),
        ]
    )


def _by_whom(bug: Bug) -> tuple[list[str], list[str]]:
    """Return the detectors that catch a bug, the properties of GPT-2 one by one; and the others."""
    each = {name: d for name, d in DETECTORS.items() if name != "properties"}
    named = {f.__name__.replace("_", " "): f for f in PROPERTIES}
    row = measure([bug], each | named)[bug.name]
    caught = [name if name in each else f'"{name}"' for name in row if row[name]]
    missed = [name for name in each if not row[name]]
    return caught, missed if any(row[name] for name in named) else [*missed, "properties"]


def _listed(title: str, names: list[str]) -> str:
    text = ", ".join(names) or "none of the detectors"
    return textwrap.fill(text, 80, initial_indent=f"{title}  ", subsequent_indent=" " * 11)


def _training_with(bug: Bug) -> str:
    """Say what becomes of a training that has the bug, and draw it."""
    code = cast(FunctionType, bug.function).__code__
    if code not in detectors.code_run_by(_two_steps):
        return f"Training does not run {bug.title}: its loss tells nothing of this bug."
    right, (wrong, error) = _losses(STEPS), _losses_with(bug, STEPS)
    drawn = [chart(right, wrong), ""] if wrong else []
    about = f"{STEPS} steps of a GPT-2 of two layers, in float64"
    return "\n".join([about, "", *drawn, *_differences(right, wrong, error)])


def _differences(right: list[float], wrong: list[float], error: str) -> Iterator[str]:
    """Say in words what `chart` shows: line by line."""
    if wrong:
        yield f"first loss  {right[0]:.4f}, with the bug {wrong[0]:.4f}"
    if error:
        yield textwrap.fill(f"With the bug, step {len(wrong) + 1} raises {error}", 80)
        return
    yield f"last loss   {right[-1]:.4f}, with the bug {wrong[-1]:.4f}"
    if right == wrong:
        yield "The curves are the same, to the last bit."
        return
    off = ~np.isclose(wrong, right, rtol=1e-6, atol=0.0)  # a NaN is off
    if not off.any():
        yield "The curves differ by rounding only."
        return
    first = int(np.argmax(off))
    why = " (before any weight has changed)" if first == 0 else ""
    yield f"The curves differ from step {first + 1} on{why}."
    if not np.isfinite(wrong).all():
        step = int(np.argmin(np.isfinite(wrong))) + 1
        yield f"From step {step} on the loss with the bug is not finite."
    elif wrong[-1] < 0.8 * wrong[0]:
        yield "The loss goes down with the bug too."


# -- a small training ------------------------------------------------------------------------------

# An old tongue twister: much to learn in little time.
_TEXT = (
    "peter piper picked a peck of pickled peppers; "
    "a peck of pickled peppers peter piper picked; "
    "if peter piper picked a peck of pickled peppers, "
    "where's the peck of pickled peppers peter piper picked? "
)


def training(steps: int = STEPS) -> Iterator[float]:
    """Train a GPT-2 of two layers on a fixed text, and yield the loss of every step, in nats.

    With all that a training has: dropout, two micro-batches a step, clipping, a schedule; half
    way it is saved, resumed and validated. float64; the same numbers every time.
    """
    vocabulary = Vocabulary.of(_TEXT)
    config = GPT2Config(
        vocab_size=len(vocabulary), n_positions=8, n_embd=16, n_layer=2, n_head=2,
        resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1,
    )  # fmt: skip
    tokens, val_tokens = data.split(vocabulary.encode(_TEXT), 0.1, config.n_positions)
    rng = np.random.default_rng(0)
    model = GPT2Model(config, dtype=np.float64)
    optimizer = AdamW(model.parameters(), weight_decay=0.1)
    for step in range(steps):
        if step == steps // 2:
            saved, moments = model.state_dict(), optimizer.state_dict()
            model = GPT2Model(config, model.rng, np.float64)
            model.load_state_dict(saved)
            optimizer = AdamW(model.parameters(), weight_decay=0.1)
            optimizer.load_state_dict(moments)
            with model.evaluating():
                F.cross_entropy(model(val_tokens[None, :8]), val_tokens[None, 1:9])
        loss = 0.0
        for _ in range(2):
            inputs, targets = data.random_batch(tokens, 8, config.n_positions, rng)
            half = F.cross_entropy(model(inputs), targets) / 2.0
            half.backward()
            loss += half.item()
        clip_grad_norm(optimizer.parameters, 1.0)
        optimizer.lr = cosine_schedule(
            step, max_lr=0.02, min_lr=0.002, warmup_steps=steps // 10, total_steps=steps
        )
        optimizer.step()
        optimizer.zero_grad()
        yield loss


def _two_steps() -> None:
    for _ in training(2):
        pass


def loss_curves(bug: Bug, steps: int = STEPS) -> tuple[list[float], list[float]]:
    """Return the losses of `training` as it is, and with the bug: same seed, same batches.

    The second is shorter if the bug makes a step raise.

    >>> right, wrong = loss_curves(BUGS["attention-backward-unscaled"], steps=3)
    >>> right[0] == wrong[0], right[1] == wrong[1]
    (True, False)

    Raises
    ------
    TypeError, ValueError
        steps is not an integer of at least 1.
    """
    validate.integer("steps", steps)
    return _losses(steps), _losses_with(bug, steps)[0]


def _losses(steps: int) -> list[float]:
    return list(training(steps))


def _losses_with(bug: Bug, steps: int) -> tuple[list[float], str]:
    """Return the losses with the bug, up to the step that raises, and what it raises."""
    losses: list[float] = []
    with bug.injected(), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            losses.extend(training(steps))
        except Exception as error:
            return losses, textwrap.shorten(f"{type(error).__name__}: {error}", 200)
    return losses, ""


# -- as text ---------------------------------------------------------------------------------------


def chart(
    right: Sequence[float], wrong: Sequence[float], width: int = STEPS, height: int = 12
) -> str:
    """Draw two loss curves as text, a column a step, or every so many steps if there are more.

    Parameters
    ----------
    right, wrong
        Losses, drawn as `.` and `x`; `*` is both. Those that are not finite are left out; those
        of `wrong` far above all of `right` stand in the top row, as `^`.
    width, height
        Of the drawing, in characters; labels are added on the left and below.

    Examples
    --------
    >>> print(chart([4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 3.0, 9.0], height=5))
    loss, nats per character
     5.00 |   ^
          |*
          | *x
          |  .
     1.00 |   .
          +----
           step 1 to 4   . right   x with the bug   * both   ^ above
    """
    finite = [loss for loss in (*right, *wrong) if math.isfinite(loss)]
    low, high = min(finite), max(finite)
    top = max((loss for loss in right if math.isfinite(loss)), default=high)
    if high > 2.0 * top:
        high = 1.25 * top  # else the curve that is right would be a flat line
    steps = np.linspace(0, len(right) - 1, min(width, len(right))).round().astype(int)
    rows = [[" "] * len(steps) for _ in range(height)]

    def row(loss: float) -> int:
        return round((high - loss) / (high - low or 1.0) * (height - 1))

    for column, step in enumerate(steps):
        if math.isfinite(right[step]):
            rows[row(right[step])][column] = "."
        if step < len(wrong) and math.isfinite(wrong[step]):
            if wrong[step] > high:
                rows[0][column] = "^"
            else:
                y = row(wrong[step])
                rows[y][column] = "*" if rows[y][column] == "." else "x"
    labels = [f"{high:5.2f}", *[""] * (height - 2), f"{low:5.2f}"]
    wide = max(map(len, labels))
    drawn = [
        f"{label:>{wide}} |{''.join(r)}".rstrip() for label, r in zip(labels, rows, strict=True)
    ]
    legend = ". right   x with the bug   * both"
    if any("^" in r for r in rows):
        legend += "   ^ above"
    return "\n".join(
        [
            "loss, nats per character",
            *drawn,
            f"      +{'-' * len(steps)}",
            f"       step 1 to {len(right)}   {legend}",
        ]
    )
