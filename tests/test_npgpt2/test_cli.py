"""The command line as a user meets it: output, errors in one line, exit statuses."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from dataclasses import fields

import pytest

from npgpt2.cli import main
from npgpt2.training import TrainingConfig

TINY = "--n-layer 1 --n-embd 8 --n-head 2 --n-positions 8 --batch-size 2 --eval-batches 1".split()


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text"
    path.write_text("to be, or not to be: that is the question.\n" * 20, encoding="utf-8")
    return str(path)


@pytest.fixture
def run(tmp_path, text, capsys):
    directory = str(tmp_path / "run")
    assert main(["train", "--text", text, "--out", directory, "--steps", "5", *TINY]) == 0
    capsys.readouterr()
    return directory


def error_of(capsys, argv):
    """The one line that a failing command prints."""
    try:
        status = main(argv)
    except SystemExit as exit:
        status = exit.code
    out, err = capsys.readouterr()
    assert status == 2
    assert out == ""
    assert err.startswith("npgpt2: error: ") and err.endswith("\n") and err.count("\n") == 1
    return err


def test_train_reports_and_ends_with_a_sample(tmp_path, text, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--text", text, "--steps", "5", "--eval-every", "2", *TINY]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("runs/001: ")
    assert "step 0 of 5" in out
    assert [line.split()[1] for line in err.splitlines()] == ["2/5", "4/5", "5/5"]
    before, sample = out.split("a sample:\n\n")
    assert re.search(r"validation loss \d\.\d{4} nats per character", before)
    assert len(sample) > 400
    assert main(["train", "--text", text, "--steps", "1", *TINY]) == 0
    assert capsys.readouterr().out.startswith("runs/002: ")


def test_resuming_a_finished_run_only_samples(run, capsys):
    assert main(["train", "--resume", run]) == 0
    assert "step 5 of 5" in capsys.readouterr().out


def test_generate_is_pinned_by_its_seed(run, capsys):
    texts = []
    for seed in ("1", "1", "2"):
        argv = ["generate", run, "--prompt", "to be", "--max-new-tokens", "60", "--seed", seed]
        assert main(argv) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("to be") and len(texts[0]) == len("to be") + 60 + 1


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (["--temperature", "0"], ["--top-k", "1"]),
        (["--top-p", "1"], ["--top-k", "1000"]),
        (["--temperature", "0"], ["--top-p", "1e-9"]),
    ],
)
def test_equivalent_sampling_flags(run, capsys, a, b):
    texts = []
    for flags in (a, b):
        assert main(["generate", run, "--seed", "3", "--max-new-tokens", "40", *flags]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_params_of_presets_and_runs(run, capsys):
    assert main(["params", "gpt2-small"]) == 0
    small = capsys.readouterr().out
    assert "124,439,808" in small and "124,356,864" in small
    assert main(["params", "small"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == small.splitlines()[1:]
    assert main(["params", run]) == 0
    assert "n_embd=8" in capsys.readouterr().out


def test_help_shows_every_default(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["train", "--help"])
    assert exit.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for f in fields(TrainingConfig):
        assert f"--{f.name.replace('_', '-')} " in text
        assert f"{f.metadata['help']} (default: {f.default})" in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "--text", "nowhere.txt"], "nowhere.txt"),
        (["train", "--n-head", "3"], "n_embd=128 is not divisible by n_head=3"),
        (["train", "--lr", "-1"], "lr=-1.0 must be at least 0"),
        (["train", "--steps", "x"], "invalid int value: 'x' (see npgpt2 train --help)"),
        (["train", "--resume", "nowhere"], "there is no directory nowhere"),
        (["train", "--resume", "r", "--lr", "1", "--out", "x"], "leave out --lr, --out"),
        (["generate", "nowhere"], "there is no directory nowhere"),
        (["params", "gpt3"], "gpt3 is neither one of gpt2-small, gpt2-medium"),
        ([], "required: COMMAND"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    assert message in error_of(capsys, argv)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompt", "Zürich"], "character 'Z' at position 0 is not among the 17 characters"),
        (["--prompt", ""], "the prompt is empty"),
        (["--temperature", "-1"], "temperature=-1.0 must be at least 0"),
        (["--top-k", "0"], "top_k=0 must be at least 1"),
        (["--top-p", "0"], "top_p=0 must be positive"),
        (["--top-p", "1.5"], "top_p=1.5 must be at least 0 and at most 1"),
        (["--max-new-tokens", "-1"], "max_new_tokens=-1 must be at least 0"),
    ],
)
def test_mistakes_in_generate_are_one_line(run, capsys, flags, message):
    assert message in error_of(capsys, ["generate", run, *flags])


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"\xe9t\xe9", "is not UTF-8"), (b"short", "text of 5 characters")],
)
def test_unusable_texts_are_one_line(tmp_path, capsys, content, message):
    path = tmp_path / "text"
    path.write_bytes(content)
    argv = ["train", "--text", str(path), "--out", str(tmp_path / "run"), *TINY]
    assert message in error_of(capsys, argv)
    assert not (tmp_path / "run").exists()


def test_ctrl_c_saves_and_resume_finishes(tmp_path, text):
    command = [sys.executable, "-m", "npgpt2", "train"]
    directory = tmp_path / "run"
    argv = [*command, "--text", text, "--out", str(directory), "--steps", "20000", *TINY]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not (directory / "metrics.csv").exists() or (
            len((directory / "metrics.csv").read_text().splitlines()) < 5
        ):
            assert process.poll() is None, "ended too early"
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in err
    step = int(re.search(rb"stopped and saved at step (\d+)", out)[1])
    rows = (directory / "metrics.csv").read_text().splitlines()
    assert len(rows) == step + 2, "the head, step 0 and every step"
    assert f"--resume {directory}".encode() in out


def test_ctrl_c_ends_a_sample_without_a_traceback(run):
    argv = [sys.executable, "-m", "npgpt2", "generate", run, "--max-new-tokens", "1000000"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert len(process.stdout.read(5)) == 5
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out.endswith(b"\n") and err == b""


def test_a_reader_that_goes_away_is_no_traceback(run):
    script = f"{sys.executable} -m npgpt2 generate {run} --max-new-tokens 3000 | head -c 10"
    done = subprocess.run(["bash", "-c", script], capture_output=True, timeout=60)
    assert len(done.stdout) == 10
    assert b"Traceback" not in done.stderr
