"""The command line as a user sees it: output, errors in one line, exit statuses."""

from __future__ import annotations

import itertools
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest

from npgpt2.cli import main
from npgpt2.config import TrainingConfig
from npgpt2.generation.evaluation import evaluate
from npgpt2.text import TextModel
from npgpt2.training import data
from npgpt2.training.run import Run
from tests.optional import needs

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
    """Return the one line that a failing command prints."""
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
    outs = []
    for _ in range(2):
        assert main(["train", "--resume", run]) == 0
        outs.append(capsys.readouterr().out)
    assert "step 5 of 5" in outs[0] and outs[0] == outs[1]


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


def test_a_directory_with_the_name_of_a_preset_is_not_hidden_by_it(run, capsys, monkeypatch):
    os.rename(run, os.path.join(os.path.dirname(run), "small"))
    monkeypatch.chdir(os.path.dirname(run))
    assert "write ./small for the directory" in error_of(capsys, ["params", "small"])
    assert main(["params", "./small"]) == 0
    assert "n_embd=8" in capsys.readouterr().out


def test_generate_ends_before_a_stop_string_and_reports_its_speed(run, capsys, monkeypatch):
    argv = ["generate", run, "--prompt", "to", "--seed", "1", "--max-new-tokens", "60"]
    assert main(argv) == 0
    whole, err = capsys.readouterr()
    assert re.fullmatch(r"first token after [\d.e-]+ s, then [\d,.]+ tokens/s\n", err)
    clock = itertools.count(0.0, 0.5)
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    for n, said in ((1, ""), (2, "first token after 0.5 s, then 2.0 tokens/s\n")):
        assert main([*argv[:-1], str(n)]) == 0
        assert capsys.readouterr().err == said
    stop = whole[30:32]
    assert main([*argv, "--stop", "never", "--stop", stop]) == 0
    assert capsys.readouterr().out == whole[: whole.index(stop, 2)] + "\n"


@needs("safetensors", "tokenizers")
def test_an_exported_run_is_used_like_the_run(run, text, tmp_path, capsys):
    exported = str(tmp_path / "exported")
    assert main(["export", run, exported]) == 0
    assert capsys.readouterr().out.startswith(f"{exported}: model and tokenizer")
    outs = []
    for directory in (run, exported):
        for argv in (
            ["generate", directory, "--prompt", "to be", "--temperature", "0"],
            ["eval", directory, "--text", text],
            ["params", directory],
        ):
            assert main(argv) == 0
            outs.append(capsys.readouterr().out.replace(directory, "DIR"))
    assert outs[:3] == outs[3:]
    assert "exported exists and is not empty" in error_of(capsys, ["export", run, exported])


def test_eval_prints_what_is_measured(run, text, tmp_path, capsys):
    argv = ["eval", run, "--text", text, "--stride", "3", "--batch-size", "2"]
    assert main(argv) == 0
    out, err = capsys.readouterr()
    opened = TextModel.open(run)
    result = evaluate(opened.model, opened.tokenizer.encode(data.read_text(text)), stride=3)
    assert result.tokens == 859
    assert out.splitlines() == [
        "860 bytes, 860 tokens; the model predicted all but the first:",
        f"loss           {result.loss:.6f} nats per token",
        f"perplexity     {result.perplexity:.6g}",
        f"bits per byte  {result.loss * 859 / 860 / math.log(2):.6f}",
    ]
    assert err.splitlines()[-1].startswith("step 143/143  loss ")
    short = tmp_path / "short"
    short.write_text("t")
    for flags, message in (
        (["--text", str(short)], "short is one token long"),
        (["--stride", "9"], "stride=9 must be at most n_positions=8"),
        (["--batch-size", "0"], "batch_size=0 must be at least 1"),
    ):
        assert message in error_of(capsys, ["eval", run, "--text", text, *flags])


def test_all_that_is_wrong_with_a_directory_is_one_line(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "n_head": 0}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    line = error_of(capsys, ["generate", str(tmp_path)])
    for part in (
        "has no tokenizer: it has no tokenizer.json, no vocab.json, no merges.txt; ",
        'can be read: config.json: model_type is "bert", only "gpt2" is supported; ',
        "config.json: n_head=0 must be at least 1; ",
        "pytorch_model.bin is not read, because a pickle can run any code",
    ):
        assert part in line


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
        (["train", "--text", "no  where.txt"], "no  where.txt: No such file or directory; check"),
        (["train", "--step", "5"], "unrecognized arguments: --step 5"),
        (["practice", "softmax", "--hin", "1"], "unrecognized arguments: --hin 1"),
        (["practice", "softmax", "."], ".: Is a directory; name a file"),
        (["practice", "softmax", "nowhere.py"], "nowhere.py: No such file or directory; check"),
        (["practice", "softmax", "--start", "no/x.py"], "no/x.py: No such file"),
        (["train", "--lr", "nan"], "lr=nan must be positive, and finite"),
        (["train", "--steps", "1e3"], "invalid int value: '1e3'"),
        (["train", "--n-head", "3"], "n_embd=128 is not divisible by n_head=3"),
        (["train", "--lr", "-1"], "lr=-1.0 must be positive, and finite"),
        (["train", "--steps", "x"], "invalid int value: 'x' (see npgpt2 train --help)"),
        (["train", "--resume", "nowhere"], "nowhere is not a directory"),
        (["train", "--resume", ""], ". is not a run directory"),
        (["train", "--text", ""], ".: Is a directory; name a file"),
        (["train", "--resume", "r", "--out", ""], "leave out --out"),
        (["train", "--batch-size", "9" * 20], "batch_size=99999999999999999999 must be at most"),
        (["train", "--batch-size", "9" * 18], "take a smaller batch_size"),
        (["train", "--n-layer", "9" * 9], "take a smaller batch_size"),
        (["train", "--eval-batches", "9" * 12], "not enough memory"),
        (["train", "--bo\ngus"], "unrecognized arguments: --bo gus"),
        (["params", "no\nwhere"], r"'no\nwhere' is neither"),
        (["train", "--resume", "r", "--lr", "1", "--out", "x"], "leave out --lr, --out"),
        (["generate", "nowhere"], "nowhere is not a directory"),
        (["params", "gpt3"], "'gpt3' is neither one of gpt2-small, gpt2-medium"),
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
        (["--top-p", "0"], "top_p=0.0 must be positive"),
        (["--top-p", "1.5"], "top_p=1.5 must be at least 0 and at most 1"),
        (["--max-new-tokens", "-1"], "max_new_tokens=-1 must be at least 0"),
        (["--seed", "-1"], "seed=-1 must be at least 0"),
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_resume_finishes(tmp_path, text, number):
    command = [sys.executable, "-m", "npgpt2", "train"]
    directory = tmp_path / "run"
    argv = [*command, "--text", text, "--out", str(directory), "--steps", "20000", *TINY]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not (directory / "metrics.csv").exists() or (
            len((directory / "metrics.csv").read_text().splitlines()) < 5
        ):
            assert process.poll() is None, "ended too early"
            time.sleep(0.01)
        process.send_signal(number)
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


def shell(script, **environment):
    """Run a script. In it, `npgpt2` runs the command line; its output is buffered as usual."""
    script = f'npgpt2() {{ {sys.executable} -W error -m npgpt2 "$@"; }}\n{script}'
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, timeout=60, env=kept | environment
    )


@pytest.mark.parametrize(
    "script",
    [
        "npgpt2 generate {run} --max-new-tokens 3000 | head -c 10",
        "npgpt2 params gpt2-small | head -c 10",
        "npgpt2 params gpt2-small | true",
    ],
)
def test_a_reader_that_goes_away_causes_no_message(run, script):
    done = shell(script.format(run=run))
    assert done.stderr == b"" and len(done.stdout) in (0, 10)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_output_that_cannot_be_written_is_one_line():
    done = shell("npgpt2 params gpt2-small > /dev/full")
    assert done.returncode == 2
    assert done.stderr == b"npgpt2: error: [Errno 28] No space left on device\n"


def test_training_needs_neither_stdout_nor_stderr(tmp_path, text):
    flags = " ".join(TINY)
    done = shell(
        f"npgpt2 train --text {text} --out {tmp_path}/one --steps 3 {flags} 2>&-; "
        f"npgpt2 train --text {text} --out {tmp_path}/two --steps 3 {flags} >&-"
    )
    assert done.returncode == 0
    assert b"validation loss" in done.stdout and b"step 3/3" in done.stderr
    assert Run.open(tmp_path / "one").load()[1]["step"] == 3


def test_characters_that_cannot_be_shown_are_replaced(tmp_path):
    path = tmp_path / "text"
    path.write_text("příliš žluťoučký kůň " * 20, encoding="utf-8")
    done = shell(
        f"npgpt2 train --text {path} --out {tmp_path}/run --steps 2 {' '.join(TINY)}",
        PYTHONIOENCODING="ascii",
    )
    assert done.returncode == 0 and b"?" in done.stdout


@pytest.mark.parametrize(
    "flags", [["--lr", "1e30"], ["--lr", "1e10"], ["--weight-decay", "1e30"], ["--lr", "1e5"]]
)
def test_a_run_that_diverges_ends_in_one_line_and_its_checkpoint_is_good(tmp_path, text, flags):
    directory = str(tmp_path / "run")
    script = ["npgpt2", "train", "--text", text, "--out", directory, "--steps", "30", *TINY]
    done = shell(" ".join([*script, "--eval-every", "1", *flags]))
    *_, last = done.stderr.decode().splitlines()
    assert done.returncode == 2 and "Warning" not in done.stderr.decode()
    assert re.fullmatch(
        rf"npgpt2: error: {directory}, after step \d+: .*lower the learning rate", last
    )
    assert shell(f"npgpt2 generate {directory} --max-new-tokens 20").returncode == 0


def test_the_hints_printed_can_be_typed(tmp_path, text):
    directory = tmp_path / "a run's"
    script = [sys.executable, "-c", "import sys; sys.argv[0] = '/some where/npgpt2'\n"
              "from npgpt2.cli import main; sys.exit(main())"]  # fmt: skip
    argv = ["train", "--text", text, "--out", str(directory), "--steps", "2", *TINY]
    done = subprocess.run([*script, *argv], capture_output=True, text=True, timeout=60)
    hint = shlex.split(done.stdout.splitlines()[-1].removeprefix("more: "))
    assert hint[:3] == ["/some where/npgpt2", "generate", str(directory)]
    assert main(hint[1:]) == 0


def test_the_command_to_continue_a_run_can_be_typed(run, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("two  words", "-dash", "it's $HOME"):
        Path(run).rename(name)
        error = error_of(capsys, ["train", "--text", text, f"--out={name}"])
        hint = shlex.split(error.partition("continue it with ")[2].partition(", otherwise")[0])
        assert main(["train", *hint]) == 0
        capsys.readouterr()
        Path(name).rename(run)


def test_a_missing_file_under_a_file_is_named(capsys, text):
    error = error_of(capsys, ["train", "--text", f"{text}/x"])
    assert f"{text}/x: Not a directory; name a directory" in error


@pytest.mark.parametrize("program", [["-m", "npgpt2"], ["npgpt2"]])
def test_ctrl_c_during_the_imports_is_one_line(tmp_path, program):
    """A package called numpy sends the signal while it is imported."""
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    script = tmp_path / "npgpt2"  # as pip writes it
    script.write_text("import sys\nfrom npgpt2.cli import main\nsys.exit(main())\n")
    program = [str(script)] if program == ["npgpt2"] else program
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, *program, "params", "gpt2-small"],
        env={**os.environ, "PYTHONPATH": paths}, cwd=tmp_path, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "npgpt2: interrupted\n"
