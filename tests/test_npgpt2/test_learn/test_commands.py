"""The commands for studying, as they are typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from npgpt2.cli import main

ROOT = Path(__file__).parents[3]


def output_of(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 0
    return capsys.readouterr().out


def error_of(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("npgpt2: error: ") and err.count("\n") == 1
    return err


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("runs") / "run"
    text = directory.parent / "text"
    text.write_text("to be, or not to be: that is the question.\n" * 20)
    sizes = "--n-layer 1 --n-embd 8 --n-head 2 --n-positions 8 --batch-size 2 --eval-batches 1"
    argv = ["train", "--text", str(text), "--out", str(directory), "--steps", "3"]
    assert main([*argv, *sizes.split()]) == 0
    return str(directory)


def test_the_museum_shows_one_bug_or_many(capsys: pytest.CaptureFixture[str]) -> None:
    one = output_of(capsys, "museum", "layer-norm-mean-term")
    assert "-        dx -= along_1" in one or "-    dx -= along_1" in one
    many = output_of(capsys, "museum", "exp-")
    assert "exp-of-input" in many and "exp-forgets-cotangent" in many and "gelu" not in many
    assert "layer-norm" in error_of(capsys, "museum", "layer-norn-mean-term")


def test_plot_draws_a_run(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "picture.svg"
    assert str(out) in output_of(capsys, "plot", run, "--prompt", "to be", "--out", str(out))
    assert out.read_text().lstrip().startswith("<?xml")
    assert "nowhere" in error_of(capsys, "plot", "nowhere")


def test_only_the_program_itself_knows_of_these_commands() -> None:
    code = (
        "import sys, npgpt2.cli; print(*[m for m in sys.modules if m.startswith('npgpt2.learn')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "" and done.returncode == 0
