"""The study commands, with their arguments on the command line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from npgpt2.cli import main
from tests.optional import needs

ROOT = Path(__file__).parents[3]


def output_of(capsys, *argv):
    assert main(argv) == 0
    return capsys.readouterr().out


def error_of(capsys, *argv):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("npgpt2: error: ") and err.count("\n") == 1
    return err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "run"
    text = directory.parent / "text"
    text.write_text("to be, or not to be: that is the question.\n" * 20)
    sizes = "--n-layer 1 --n-embd 8 --n-head 2 --n-positions 8 --batch-size 2 --eval-batches 1"
    argv = ["train", "--text", str(text), "--out", str(directory), "--steps", "3"]
    assert main([*argv, *sizes.split()]) == 0
    return str(directory)


def test_practice_lists_starts_helps_and_judges(tmp_path, capsys):
    listed = output_of(capsys, "practice")
    assert listed.index("linear") < listed.index("layer_norm") < listed.index("adamw")
    mine = tmp_path / "mine.py"
    output_of(capsys, "practice", "softmax", "--start", str(mine))
    assert str(mine) in error_of(capsys, "practice", "softmax", "--start", str(mine))
    assert main(["practice", "softmax", str(mine)]) == 1
    assert "not yet written" in capsys.readouterr().out
    stub = mine.read_text()
    for answer, status, said in (
        ("p * (g - np.sum(g * p, axis=-1, keepdims=True))", 0, "softmax: right"),
        ("p * g", 1, "The term -p * sum(g * p) is missing"),
    ):
        body = f"p = forward(x)\n    return {answer}"
        mine.write_text(re.sub(r"raise NotImplementedError.*", lambda _: body, stub))  # noqa: B023
        assert main(["practice", "softmax", str(mine)]) == status
        assert said in capsys.readouterr().out
    hints = {output_of(capsys, "practice", "softmax", "--hint", str(n)) for n in (1, 2, 3)}
    assert len(hints) == 3
    assert "dx" in output_of(capsys, "practice", "softmax", "--derivation")
    assert "softmax" in error_of(capsys, "practice", "sofmax")
    assert "nowhere.py" in error_of(capsys, "practice", "softmax", "nowhere.py")


@pytest.mark.parametrize("model", [(), ("RUN",), ("RUN", "--prompt", "to be")])
def test_explain_play_and_contributions_take_a_run_or_a_random_model(model, run, tmp_path, capsys):
    model = tuple(run if part == "RUN" else part for part in model)
    text = output_of(capsys, "explain", *model)
    loss = re.search(r"Value: (\d+\.\d+)\.", text)
    assert loss is not None and "h.0.attn" in text
    assert max(map(len, text.splitlines())) <= 100
    for command in ("explain", "play"):
        page = tmp_path / f"{command}.html"
        said = output_of(capsys, command, *model, "--html", str(page))
        assert said.startswith(f"{page}: loss {float(loss[1]):.4f}")
        assert page.read_text().startswith("<!DOCTYPE html>")
    bars = output_of(capsys, "contributions", "wte", *model)
    assert "embedding (wte)" in bars and "linear_cross_entropy" in bars
    assert "identity" in output_of(capsys, "contributions", "stream", *model)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["explain", "DIR", "--preset", "gpt2-xl"], "a directory or --preset, not both"),
        (["explain", "--preset", "gpt3"], "--preset gpt3 is not one of gpt2-small"),
        (["explain", "--prompt", "to"], "--prompt needs a directory"),
        (
            ["explain", "RUN", "--prompt", "t"],
            "the prompt has 1 tokens, and must have 2 to n_positions + 1 = 9",
        ),
        (["explain", "RUN", "--prompt", "to be or not"], "the prompt has 12 tokens, and must have"),
        (["explain", "--full", "--html", "x"], "--full is for the text"),
        (["play", "--html", ""], "--html '' is a directory; name a file"),
        (["explain", "RUN", "--prompt", "ZZ"], "character 'Z' at position 0"),
        (["explain", "nowhere"], "nowhere is not a directory"),
        (["contributions", "wtf"], "wte"),
    ],
)
def test_mistakes_are_one_line(argv, message, run, capsys):
    assert message in error_of(capsys, *(run if part == "RUN" else part for part in argv))


def test_the_museum_shows_one_bug_or_many(capsys):
    one = output_of(capsys, "museum", "layer-norm-mean-term")
    assert "-        dx -= along_1" in one or "-    dx -= along_1" in one
    many = output_of(capsys, "museum", "exp-")
    assert "exp-of-input" in many and "exp-forgets-cotangent" in many and "gelu" not in many
    assert "layer-norm" in error_of(capsys, "museum", "layer-norn-mean-term")


@needs("matplotlib")
def test_plot_draws_a_run(run, tmp_path, capsys):
    out = tmp_path / "picture.svg"
    assert str(out) in output_of(capsys, "plot", run, "--prompt", "to be", "--out", str(out))
    assert out.read_text().lstrip().startswith("<?xml")
    assert "nowhere" in error_of(capsys, "plot", "nowhere")


def test_only_the_program_itself_knows_of_these_commands():
    code = (
        "import sys, npgpt2.cli; print(*[m for m in sys.modules if m.startswith('npgpt2.learn')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "" and done.returncode == 0
