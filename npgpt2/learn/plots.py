"""Pictures of a run: its losses, its gradient norm, and the attention weights of its model.

`npgpt2 plot RUN` draws the losses and norms in metrics.csv. With a prompt it also draws the
attention weights of every head. Only the drawing needs matplotlib.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from autograd import Array, Tensor
from npgpt2 import functional as F
from npgpt2 import validate
from npgpt2.disk.files import write_atomically
from npgpt2.model import GPT2Model
from npgpt2.training.run import Metrics, Run

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase


def report(
    directory: str | os.PathLike[str],
    prompt: str | None = None,
    out: str | os.PathLike[str] | None = None,
) -> str:
    """Draw a run and return the path of the picture; for parameters and errors see `plot`."""
    return str(plot(directory, prompt, out))


def plot(
    directory: str | os.PathLike[str],
    prompt: str | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Path:
    """Draw the curves of a run, and the attention maps of a prompt; return the path of the picture.

    Parameters
    ----------
    directory
        A run directory.
    prompt
        Text of at most n_positions characters. None draws only the curves.
    out
        The picture, .png or .svg; it replaces an existing file. The default is plot.png in the run
        directory.

    Raises
    ------
    ImportError
        matplotlib is missing.
    OSError, ValueError
        The directory is not a run, is damaged, or has no step yet; the prompt is empty, too long,
        or has unknown characters; or `out` has another ending, or cannot be written.
    """
    try:
        from matplotlib import style
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'npgpt2[plot]'") from error
    run = Run.open(directory)
    path = run.directory / "plot.png" if out is None else Path(out)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise ValueError(f"{path} must end in .png or .svg; npgpt2 draws no other format")
    metrics = read_metrics(run.metrics_path)
    weights = [] if prompt is None else _of_prompt(run, prompt)

    # Use matplotlib's default style instead of the user's, and the same bytes for the same picture.
    with style.context(["default", {"svg.hashsalt": "npgpt2"}]):
        if prompt is None:
            figure = Figure((9.0, 6.5), layout="constrained")
            draw_curves(figure, run, metrics)
        else:
            most = max(len(weights), len(weights[0]))  # maps in a column, or in a row
            side = min(max(0.11 * len(prompt), 2.0), 6.0, max(30.0 / most, 1.0))  # inches
            size = side * len(weights[0]), (side + 0.3) * len(weights)
            figure = Figure((max(9.0, size[0] + 1.5), size[1] + 7.5), layout="constrained")
            parts: Any = figure.subfigures(2, 1, height_ratios=(6.5, size[1] + 1.0))
            draw_curves(parts[0], run, metrics)
            draw_attention(parts[1], weights, prompt, fontsize=min(9.0, 60.0 * side / len(prompt)))
        metadata = {"Date": None} if kind == "svg" else {}
        write_atomically(
            path, lambda file: figure.savefig(file, format=kind, dpi=150, metadata=metadata)
        )
    return path


# -- the numbers -----------------------------------------------------------------------------------


def read_metrics(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Read metrics.csv: each column of `Metrics` by name, (n,) float64. Empty fields become NaN.

    A last row that is not yet complete is left out. If the file is empty, is damaged, or has no row
    of a training step yet, this raises ValueError.
    """
    path, names = Path(path), [f.name for f in fields(Metrics)]
    try:
        header, *rows = list(csv.reader(path.read_text("utf-8").splitlines())) or [[]]
        if header != names:
            raise ValueError(f"its first line is not {','.join(names)}")
        if rows and len(rows[-1]) < len(names):
            rows.pop()
        for line, row in enumerate(rows, 2):
            if len(row) != len(names):
                raise ValueError(f"line {line} has {len(row)} columns, not {len(names)}")
        table = np.array([[float(x or math.nan) for x in row] for row in rows])
        columns = table.reshape(-1, len(names)).T
    except (csv.Error, ValueError) as error:
        what = f"damaged: {error}" if path.stat().st_size else "empty"
        raise ValueError(f"{path} is {what}") from error
    metrics = dict(zip(names, columns, strict=True))
    if not (metrics["step"] > 0).any():
        raise ValueError(f"{path} has no row of a step yet; train first")
    return metrics


def attention_weights(model: GPT2Model, ids: ArrayLike) -> list[Array]:
    """Return the attention weights of each layer, (H, T, T), without dropout.

    They are softmax(q @ k.T / sqrt(D)), masked: Vaswani et al., arXiv:1706.03762 (2017), section
    3.2. Row t of a head has the weights of position t. It sums to 1, and is 0 right of column t.

    Parameters
    ----------
    model
        A model with H heads in each layer.
    ids
        (T,) integers in [0, V); 1 <= T <= n_positions.

    Examples
    --------
    >>> from npgpt2 import GPT2Config
    >>> config = GPT2Config(vocab_size=5, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    >>> attention_weights(GPT2Model(config), [3, 1, 4])[0][1].round(1)
    array([[1. , 0. , 0. ],
           [0.5, 0.5, 0. ],
           [0.3, 0.3, 0.3]], dtype=float32)
    """
    config = model.config
    ids = validate.ids("ids", ids, config.vocab_size)
    if ids.ndim != 1 or not 1 <= ids.size <= config.n_positions:
        raise ValueError(
            f"ids must have shape (T,) with T at least 1 and at most "
            f"n_positions={config.n_positions}, not {ids.shape}"
        )
    T, C, H = ids.size, config.n_embd, config.n_head
    D, seen, weights = C // H, np.tri(T, dtype=bool), []
    with model.evaluating():
        x = model.wte(ids[None, :]) + model.wpe(np.arange(T))  # (1, T) -> (1, T, C)
        for block in model.h:
            qkv = block.attn.c_attn(block.ln_1(x)).data  # (1, T, C) -> (1, T, 3C)
            q, k, _ = qkv.reshape(T, 3, H, D).transpose(1, 2, 0, 3)  # each (H, T, D)
            scores = q @ k.swapaxes(1, 2) / math.sqrt(D)
            weights.append(F.softmax(Tensor(np.where(seen, scores, -np.inf))).data)
            x = block(x)
    return weights


def _of_prompt(run: Run, prompt: str) -> list[Array]:
    """Return the attention weights of a run's model for a prompt; errors name the prompt."""
    model = run.load()[0]
    P = model.config.n_positions
    if not 1 <= len(prompt) <= P:
        raise ValueError(
            f"the prompt has {len(prompt)} characters; it must have at least 1, and at most "
            f"n_positions={P}"
        )
    return attention_weights(model, run.vocabulary.encode(prompt))


# -- drawing ---------------------------------------------------------------------------------------


def draw_curves(figure: FigureBase, run: Run, metrics: dict[str, Array]) -> None:
    """Draw the losses, and the gradient norm below them; see `read_metrics`."""
    loss, norm = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    step, V = metrics["step"], len(run.vocabulary)
    thin: dict[str, Any] = {"color": "C0", "linewidth": 0.8, "alpha": 0.6}
    if len(step) < 50:
        thin["marker"] = "."
    validated = ~np.isnan(metrics["val_loss"])
    loss.set_title(_visible(str(run.directory)), parse_math=False)
    loss.axhline(math.log(V), color="0.4", linestyle=":", label=f"guessing: ln {V}")
    loss.plot(step, metrics["loss"], label="training, one batch", **thin)
    if validated.any():
        val = metrics["val_loss"][validated]
        label = f"validation, last {val[-1]:.4f}"
        loss.plot(step[validated], val, "o-", color="C3", markersize=4.0, label=label)
    loss.set_ylabel("loss (nats per character)")
    limit = run.config.max_grad_norm
    norm.axhline(limit, color="0.4", linestyle="--", label=f"clipped to {limit:g}")
    norm.plot(step, metrics["grad_norm"], label="before clipping", **thin)
    norm.set_ylabel("gradient norm")
    norm.set_ylim(bottom=0.0)
    norm.set_xlabel("step")
    for axes in (loss, norm):
        axes.grid(color="0.9")
        axes.legend()


def draw_attention(
    figure: FigureBase, weights: Sequence[Array], prompt: str, fontsize: float
) -> None:
    """Draw a map for each head, and a row of maps for each layer; see `attention_weights`."""
    from matplotlib.colors import PowerNorm

    L, (H, T, _) = len(weights), weights[0].shape
    maps: Any = figure.subplots(L, H, squeeze=False, sharex=True, sharey=True)
    labels = [_visible(character).replace(" ", "\u2423") for character in prompt]  # an open box
    hidden = ~np.tri(T, dtype=bool)
    for layer, head in np.ndindex(L, H):
        axes = maps[layer, head]
        # The colour follows the square root, because most of T weights that sum to 1 are small.
        image = axes.imshow(
            np.ma.masked_array(weights[layer][head], hidden),
            cmap="Blues",
            norm=PowerNorm(0.5, 0.0, 1.0),
            interpolation="nearest",
        )
        axes.set_facecolor("0.93")  # shows where weights are hidden
        axes.set_title(f"layer {layer}, head {head}", fontsize=9)
        axes.set_xticks(range(T), labels, fontsize=fontsize)
        axes.set_yticks(range(T), labels, fontsize=fontsize)
        axes.tick_params(length=0.0)
    figure.supxlabel("character attended to", fontsize=10)
    figure.supylabel("character that attends", fontsize=10)
    figure.colorbar(
        image, ax=maps, label="attention weight", shrink=1.0 / L, ticks=[0, 0.05, 0.2, 0.5, 1]
    )


def _visible(text: str) -> str:
    """Return text with Python's escapes for characters that the font cannot draw."""
    from matplotlib import font_manager

    known = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    return "".join(c if c.isprintable() and ord(c) in known else ascii(c)[1:-1] for c in text)
