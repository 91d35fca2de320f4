"""Pictures of a run: the drawn numbers, the files, and the errors if there is nothing to draw."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npgpt2 import GPT2Config, GPT2Model
from npgpt2 import functional as F
from npgpt2.learn import plots
from npgpt2.training.run import Metrics, Run
from npgpt2.training.trainer import Trainer
from tests.optional import needs
from tests.test_npgpt2.test_training.test_trainer import TEXT, TINY

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A run with characters of all kinds and two steps, the second with a validation loss."""
    text = TEXT + "a\n\t $x$ \x85\u0301漢🙂\u2028" * 20
    run = Trainer.start(tmp_path_factory.mktemp("runs") / r"a $\frac$ 漢", TINY, text).run
    run.append(Metrics(1, 3.5, None, 1e-3, 2.0, 0.1))
    run.append(Metrics(2, 3.25, 3.3, 1e-3, 0.5, 0.2))
    return run.directory


# -- the weights -----------------------------------------------------------------------------------


@pytest.fixture
def model():
    model = GPT2Model(
        GPT2Config(vocab_size=11, n_positions=7, n_embd=12, n_layer=3, n_head=2, attn_pdrop=0.3),
        dtype=np.float64,
    )
    rng = np.random.default_rng(1)
    for parameter in model.parameters():
        parameter.data[...] = rng.normal(0.0, 0.5, parameter.shape)
    return model


@pytest.mark.parametrize("T", [1, 2, 7])
def test_weights_times_values_are_what_causal_attention_returns(model, monkeypatch, T):
    ids = np.random.default_rng(0).integers(11, size=T)
    calls, original = [], F.causal_attention

    def noted(qkv, *args):
        calls.append((qkv.data, original(qkv, *args)))
        return calls[-1][1]

    with monkeypatch.context() as patch, model.evaluating():
        patch.setattr(F, "causal_attention", noted)
        model(ids[None])
    weights = plots.attention_weights(model, ids)
    assert len(weights) == len(calls) == 3
    for w, (qkv, out) in zip(weights, calls, strict=True):
        v = qkv[0, :, 24:].reshape(T, 2, 6).swapaxes(0, 1)  # (T, C) -> (H, T, D)
        heads = (w @ v).swapaxes(0, 1).reshape(1, T, 12)
        np.testing.assert_allclose(heads, out.data, rtol=1e-12, atol=1e-13)


def test_rows_sum_to_1_and_nothing_right_of_the_diagonal(model):
    assert model.training
    weights = plots.attention_weights(model, [3, 1, 4, 1, 5])
    assert model.training and all(w.shape == (2, 5, 5) for w in weights)
    for w in weights:
        np.testing.assert_allclose(w.sum(axis=-1), 1.0, rtol=1e-14)
        assert (w[:, np.tri(5) == 0.0] == 0.0).all() and (w[:, np.tri(5) == 1.0] > 0.0).all()
    again = plots.attention_weights(model.astype(np.float32), [3, 1, 4, 1, 5])
    assert {w.dtype for w in again} == {np.dtype(np.float32)}
    np.testing.assert_allclose(again, weights, atol=1e-5)


@pytest.mark.parametrize("ids", [[], [0] * 8, [[1, 2]], 3])
def test_ids_of_a_wrong_shape_are_an_error(model, ids):
    with pytest.raises(ValueError, match=r"ids must have shape \(T,\) .* n_positions=7, not \("):
        plots.attention_weights(model, ids)


@pytest.mark.parametrize(("ids", "error"), [([11], IndexError), ([-1], IndexError),
                                            ([0.5], TypeError)])  # fmt: skip
def test_wrong_ids_are_an_error(model, ids, error):
    with pytest.raises(error, match="ids"):
        plots.attention_weights(model, ids)


# -- the metrics -----------------------------------------------------------------------------------


def test_metrics_are_read_as_they_were_written(directory):
    metrics = plots.read_metrics(directory / "metrics.csv")
    assert list(metrics) == ["step", "loss", "val_loss", "lr", "grad_norm", "seconds"]
    np.testing.assert_array_equal(metrics["step"], [0, 1, 2])
    np.testing.assert_array_equal(metrics["loss"], [np.nan, 3.5, 3.25])
    np.testing.assert_array_equal(metrics["grad_norm"], [np.nan, 2.0, 0.5])
    assert metrics["val_loss"][2] == 3.3 and np.isnan(metrics["val_loss"][1])


HEADER = "step,loss,val_loss,lr,grad_norm,seconds\n"


def test_an_incomplete_last_row_is_left_out(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(HEADER + "1,2.0,,0.1,3.0,0.5\n2,1.")
    np.testing.assert_array_equal(plots.read_metrics(path)["step"], [1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n", "is damaged: its first line is not step,loss"),
        (b"step,loss\n1,2.0\n", "is damaged: its first line is not step,loss"),
        (HEADER.encode(), "has no row of a step yet; train first"),
        ((HEADER + "0,,4.0,,,0.0\n").encode(), "has no row of a step yet; train first"),
        ((HEADER + "1,two,,0.1,3.0,0.5\n").encode(), "is damaged: .*'two'"),
        (
            (HEADER + "1,2.0\n1,2.0,,0.1,3.0,0.5\n").encode(),
            "is damaged: line 2 has 2 columns, not 6",
        ),
        (b"\xff\xfe\x00", "is damaged: .*0xff"),
    ],
)
def test_metrics_that_cannot_be_drawn_are_an_error(tmp_path, content, message):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"metrics.csv {message}"):
        plots.read_metrics(path)


# -- the pictures ----------------------------------------------------------------------------------


@needs("matplotlib")
def test_curves_are_drawn_into_the_run_directory(directory):
    path = directory / "plot.png"
    assert plots.report(directory) == str(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    path.unlink()
    assert len(list(directory.iterdir())) == 5


@needs("matplotlib")
def test_a_prompt_of_odd_characters_is_drawn_as_escapes(directory, tmp_path):
    """A missing glyph would be a warning, and a wrong formula an error: both fail the test."""
    out = tmp_path / "a.SVG"
    assert plots.plot(directory, "\n $x$漢\u0301", out) == out
    once = out.read_bytes()
    assert once.lstrip().startswith(b"<?xml")
    plots.plot(directory, "\n $x$漢\u0301", out)
    assert out.read_bytes() == once
    assert [path.name for path in tmp_path.iterdir()] == ["a.SVG"]


@needs("matplotlib")
def test_characters_that_cannot_be_drawn_are_spelled_out():
    from matplotlib.figure import Figure

    figure, prompt = Figure(), "a é\n\t\x85漢🙂\\$"
    plots.draw_attention(figure, [np.eye(len(prompt))[None]], prompt, 9.0)
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == "a|\u2423|é|\\n|\\t|\\x85|\\u6f22|\\U0001f642|\\|$".split("|")


@needs("matplotlib")
def test_labels_titles_and_numbers_of_the_picture(directory):
    from matplotlib.figure import Figure

    figure = Figure()
    run = Run.open(directory)
    plots.draw_curves(figure, run, plots.read_metrics(run.metrics_path))
    loss, norm = figure.axes
    assert loss.get_ylabel() == "loss (nats per character)" and norm.get_xlabel() == "step"
    drawn = {line.get_label(): line for axes in (loss, norm) for line in axes.lines}
    np.testing.assert_array_equal(drawn["training, one batch"].get_ydata(), [np.nan, 3.5, 3.25])
    np.testing.assert_array_equal(drawn["before clipping"].get_ydata(), [np.nan, 2.0, 0.5])
    assert drawn["validation, last 3.3000"].get_xdata().tolist() == [0.0, 2.0]
    assert set(drawn["clipped to 1"].get_ydata()) == {TINY.max_grad_norm}
    V = len(run.vocabulary)
    np.testing.assert_allclose(drawn[f"guessing: ln {V}"].get_ydata(), np.log(V))

    figure = Figure()
    weights = [np.tri(2)[None] / [[1.0], [2.0]], np.eye(2)[None]]
    plots.draw_attention(figure, weights, "a ", 9.0)
    maps = figure.axes[:2]
    assert [axes.get_title() for axes in maps] == ["layer 0, head 0", "layer 1, head 0"]
    for axes, w in zip(maps, weights, strict=True):
        shown = axes.images[0].get_array()
        np.testing.assert_array_equal(shown.filled(0.0), w[0])
        np.testing.assert_array_equal(shown.mask, [[False, True], [False, False]])
    assert [label.get_text() for label in maps[1].get_xticklabels()] == ["a", "\u2423"]


# -- mistakes --------------------------------------------------------------------------------------


@needs("matplotlib")
@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "the prompt has 0 characters; it must have at least 1, and at most n_positions="),
        ("a" * (TINY.n_positions + 1), f"has {TINY.n_positions + 1} characters; .*n_positions="),
        ("é", "character 'é' at position 0 is not among the"),
    ],
)
def test_a_prompt_that_does_not_fit_is_an_error(directory, prompt, message):
    with pytest.raises(ValueError, match=message):
        plots.plot(directory, prompt)
    assert not (directory / "plot.png").exists()


@needs("matplotlib")
@pytest.mark.parametrize("name", ["plot", "plot.pdf", "plot.png.gz"])
def test_files_are_png_or_svg(directory, tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} must end in .png or .svg"):
        plots.plot(directory, out=tmp_path / name)


@needs("matplotlib")
def test_a_directory_that_is_missing_or_no_run_is_an_error(directory, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a directory"):
        plots.plot(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is not a run directory"):
        plots.plot(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        plots.plot(directory, out=tmp_path / "nowhere" / "plot.png")


@needs("matplotlib")
def test_a_run_without_metrics_is_an_error(tmp_path):
    run = Trainer.start(tmp_path / "run", TINY, TEXT).run
    with pytest.raises(ValueError, match="metrics.csv has no row of a step yet"):
        plots.plot(run.directory)
    run.metrics_path.unlink()
    with pytest.raises(FileNotFoundError, match="metrics.csv"):
        plots.plot(run.directory)


def test_matplotlib_is_imported_only_for_drawing():
    code = (
        "import sys\n"
        "from npgpt2.learn import plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "sys.modules['matplotlib'] = None\n"
        "try:\n    plots.plot('.')\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          timeout=60)  # fmt: skip
    assert done.stdout == "plots need matplotlib: pip install 'npgpt2[plot]'\n", done.stderr
