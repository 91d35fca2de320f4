"""The museum of bugs: which check catches which bug, and how a model trains with a bug.

`npgpt2 museum` measures and prints the whole matrix of `detectors.py`; `--write FILE` writes it as
Markdown. `npgpt2 museum NAME` shows one bug: its lesson, the changed lines, the checks that catch
or miss it, and the loss of a small training with and without it.
"""

from __future__ import annotations

import difflib
import inspect
import math
import os
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import cast

import numpy as np

from npgpt2 import AdamW, GPT2Config, GPT2Model, clip_grad_norm, cosine_schedule, validate
from npgpt2 import functional as F
from npgpt2.disk import files
from npgpt2.disk.tokenizer import Vocabulary
from npgpt2.learn.bugs import BUGS, Bug
from npgpt2.learn.detectors import DETECTORS, Matrix, code_run_by, format_matrix, measure
from npgpt2.learn.statements import STATEMENTS
from npgpt2.progress import Progress
from npgpt2.training import data

STEPS = 60


def report(name: str = "", progress: Callable[[int], Progress] | None = None) -> str:
    """Return a text about one bug, or the matrix of all bugs with `name` in their names.

    The matrix of all bugs takes about half a minute. `progress(number of bugs)` makes the object
    that shows progress; None shows nothing.

    Raises
    ------
    ValueError
        No bug has `name` in its name.
    """
    if name in BUGS:
        return show(BUGS[name])
    legend = (
        "x caught, . missed. npgpt2/learn/detectors.py describes the checks.\n"
        "npgpt2 museum NAME shows one bug and its loss curve."
    )
    return f"{format_matrix(_measured(name, progress))}\n\n{legend}"


def write(path: str | os.PathLike[str], progress: Callable[[int], Progress] | None = None) -> str:
    """Write the matrix of all bugs as Markdown, replacing the file; return a line that says so."""
    measured = _measured("", progress)
    files.write_bytes(path, document(measured).encode())
    return f"{os.fspath(path)}: {len(measured)} bugs, {len(DETECTORS)} checks"


def document(measured: Matrix) -> str:
    """Return the matrix as Markdown, with an explanation of its rows, columns and marks."""
    checks = "\n".join(
        textwrap.fill(f"- {name}: {inspect.getdoc(check)}", 100, subsequent_indent="  ")
        for name, check in DETECTORS.items()
    )
    return f"""# Which check catches which bug

`npgpt2 museum --write FILE` wrote this file. It put each bug in its place and called each check.

Each row is a bug from `npgpt2/learn/bugs`. `npgpt2 museum NAME` shows a bug and its loss curve.
Each column is a check from `npgpt2/learn/detectors.py`:

{checks}

`x` means that the check caught the bug; `.` means that it missed the bug. The last row counts the
bugs that each check caught.

```
{format_matrix(measured)}
```
"""


def find(part: str = "") -> list[Bug]:
    """Return the bugs with `part` in their names; raise ValueError if there is none.

    >>> [bug.name for bug in find("tanh")]
    ['tanh-square-forgotten', 'tanh-forgets-cotangent']
    """
    found = [bug for name, bug in BUGS.items() if part in name]
    if not found:
        close = difflib.get_close_matches(part, BUGS, n=5)
        hint = f"did you mean {' or '.join(close)}?" if close else "npgpt2 museum lists all bugs"
        raise ValueError(f"none of the {len(BUGS)} bugs has {part!r} in its name; {hint}")
    return found


def _measured(part: str, progress: Callable[[int], Progress] | None) -> Matrix:
    """Measure `find(part)` against all checks."""
    bugs = find(part)
    shown = progress(len(bugs)) if progress else None

    def one_by_one() -> Iterator[Bug]:
        for done, bug in enumerate(bugs):
            if shown:
                shown.update(done, bug.name)
            yield bug

    try:
        return measure(one_by_one(), DETECTORS)
    finally:
        if shown:
            shown.close()


# -- one bug ---------------------------------------------------------------------------------------


def show(bug: Bug) -> str:
    """Return the lesson, the changed lines, the checks and the loss curve of a bug."""
    caught, missed = _caught_and_missed(bug)
    return "\n\n".join(
        [
            f"{bug.name}, in {bug.title}",
            textwrap.fill(bug.lesson, 80),
            bug.diff(),
            _listed("caught by", caught) + "\n" + _listed("missed by", missed),
            _training_with(bug),
        ]
    )


def _caught_and_missed(bug: Bug) -> tuple[list[str], list[str]]:
    """Return the names of the checks that catch a bug, and the names of the checks that miss it.

    The first list has each statement that catches the bug, in quotation marks.
    """
    each = {name: d for name, d in DETECTORS.items() if name != "statements"}
    row = measure([bug], each | STATEMENTS)[bug.name]
    caught = [name if name in each else f'"{name}"' for name in row if row[name]]
    missed = [name for name in each if not row[name]]
    return caught, missed if any(row[name] for name in STATEMENTS) else [*missed, "statements"]


def _listed(title: str, names: list[str]) -> str:
    text = ", ".join(names) or "no check"
    return textwrap.fill(text, 80, initial_indent=f"{title}  ", subsequent_indent=" " * 11)


def _training_with(bug: Bug) -> str:
    """Draw and compare the losses of a training without and with the bug."""
    code = cast(FunctionType, bug.function).__code__
    if code not in code_run_by(_two_steps):
        return f"Training does not run {bug.title}, so its loss says nothing about this bug."
    right, (wrong, error) = list(training()), _losses_with(bug, STEPS)
    drawn = [chart(right, wrong), ""] if wrong else []
    about = f"Training a GPT-2 of two layers in float64, {STEPS} steps:"
    return "\n".join([about, "", *drawn, *_differences(right, wrong, error)])


def _differences(right: list[float], wrong: list[float], error: str) -> Iterator[str]:
    """Say in words what `chart` shows, line by line."""
    if wrong:
        yield f"first loss  {right[0]:.4f}, with the bug {wrong[0]:.4f}"
    if error:
        yield textwrap.fill(f"With the bug, step {len(wrong) + 1} raises {error}", 80)
        return
    yield f"last loss   {right[-1]:.4f}, with the bug {wrong[-1]:.4f}"
    if right == wrong:
        yield "The curves are equal to the last bit."
        return
    off = ~np.isclose(wrong, right, rtol=1e-6, atol=0.0)  # a NaN is off
    if not off.any():
        yield "The curves differ only by rounding."
        return
    first = int(np.argmax(off))
    why = ", before any weight has changed" if first == 0 else ""
    yield f"The curves differ from step {first + 1} on{why}."
    if not np.isfinite(wrong).all():
        step = int(np.argmin(np.isfinite(wrong))) + 1
        yield f"With the bug, the loss is not finite from step {step} on."
    elif wrong[-1] < 0.8 * wrong[0]:
        yield "The loss goes down with the bug too."


# -- a small training ------------------------------------------------------------------------------

# A tongue twister repeats itself, so a small model learns it in a few steps.
_TEXT = (
    "peter piper picked a peck of pickled peppers; "
    "a peck of pickled peppers peter piper picked; "
    "if peter piper picked a peck of pickled peppers, "
    "where's the peck of pickled peppers peter piper picked? "
)


def training(steps: int = STEPS) -> Iterator[float]:
    """Train a GPT-2 of two layers on a fixed text in float64, and yield each step's loss in nats.

    The training uses dropout, two micro-batches per step, clipping and a schedule. Half way it
    saves, resumes and validates. All calls yield the same numbers.
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
    """Return the losses of `training` without and with the bug, on the same batches.

    If a step raises because of the bug, the second list ends before this step.

    >>> right, wrong = loss_curves(BUGS["attention-backward-unscaled"], steps=3)
    >>> right[0] == wrong[0], right[1] == wrong[1]
    (True, False)
    """
    validate.integer("steps", steps)
    return list(training(steps)), _losses_with(bug, steps)[0]


def _losses_with(bug: Bug, steps: int) -> tuple[list[float], str]:
    """Return the losses with the bug, and the error if a step raises one."""
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
    """Draw two loss curves as text, of `width` x `height` characters without the labels.

    Each column is a step. If there are more than `width` steps, equally spaced steps are drawn.
    Losses that are not finite are left out. A `^` in the top row is a loss of `wrong` that is far
    above all of `right`.

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
        high = 1.25 * top  # otherwise the right curve would be a flat line
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
