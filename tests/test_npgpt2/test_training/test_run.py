"""The run directory: its files, and the errors if it is missing, foreign or damaged."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace

import numpy as np
import pytest

from npgpt2 import TextModel
from npgpt2.training.run import Metrics, Run, new_run_directory
from npgpt2.training.trainer import Trainer
from tests.test_npgpt2.test_training.test_trainer import TEXT, TINY

RNG = np.random.default_rng(0).bit_generator.state


@pytest.fixture
def run(tmp_path):
    return Trainer.start(tmp_path / "run", TINY, TEXT).run


def test_a_run_directory_has_these_files_and_no_others(run):
    names = {"config.json", "text.txt", "vocabulary.json", "checkpoint.npz", "metrics.csv"}
    assert {path.name for path in run.directory.iterdir()} == names
    assert run.text_path.read_text() == TEXT
    assert json.loads(run.vocabulary_path.read_text()) == sorted(set(TEXT))
    assert json.loads(run.config_path.read_text())["n_embd"] == TINY.n_embd


def test_an_opened_run_is_the_one_created(run):
    opened = Run.open(run.directory)
    assert opened.config == TINY
    assert opened.vocabulary == run.vocabulary and opened.text == TEXT


def test_every_character_of_unicode_survives(tmp_path):
    text = "a\r\n\t\0\x85\u2028\ufeffé漢🙂" * 30
    run = Trainer.start(tmp_path / "run", TINY, text).run
    opened = Run.open(run.directory)
    assert opened.text == text
    assert opened.vocabulary.decode(opened.vocabulary.encode(text)) == text


def test_numbers_in_metrics_come_back_exactly(run):
    row = Metrics(1, loss=1 / 3, val_loss=None, lr=1e-3, grad_norm=2.0**0.5, seconds=0.1)
    run.append(row)
    with run.metrics_path.open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert (float(last["loss"]), float(last["grad_norm"])) == (row.loss, row.grad_norm)
    assert last["val_loss"] == ""


def test_rows_that_will_be_done_again_are_dropped(run):
    for step in (1, 2, 3):
        run.append(Metrics(step, loss=float(step)))
    with run.metrics_path.open("a") as file:
        file.write("4,0.")  # an incomplete row
    run.rewind(2)
    with run.metrics_path.open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["0", "1", "2"]
    run.metrics_path.unlink()
    run.rewind(2)
    assert run.metrics_path.read_text().startswith("step,loss,val_loss")


def test_files_half_written_are_removed(run):
    (run.directory / ".checkpoint.npz.1234.tmp").write_bytes(b"half")
    run.rewind(0)
    assert not list(run.directory.glob(".*"))


def test_nothing_is_written_before_create(tmp_path):
    run = Run.new(tmp_path / "run", TINY, TEXT)
    assert not (tmp_path / "run").exists()
    run.create()
    assert run.text_path.read_text() == TEXT


def test_a_new_directory_gets_the_next_number(tmp_path):
    assert new_run_directory(tmp_path) == tmp_path / "001"
    (tmp_path / "001").mkdir()
    assert new_run_directory(tmp_path) == tmp_path / "002"


# -- missing, foreign, damaged -------------------------------------------------------------------


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a directory"):
        Run.open(tmp_path / "nowhere")


def test_of_a_foreign_directory_all_that_is_missing_is_named(tmp_path):
    message = "no config.json, no text.txt, no vocabulary.json, no checkpoint.npz"
    with pytest.raises(ValueError, match=message):
        Run.open(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff", b"", b"[" * 100_000])
def test_a_damaged_config_is_named(run, content):
    run.config_path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{run.config_path} is damaged"):
        Run.open(run.directory)


@pytest.mark.parametrize("change", [{"steps": "many"}, {"n_heads": 3}, {"n_head": 3}])
def test_settings_that_make_no_sense_are_named(run, change):
    run.config_path.write_text(json.dumps(json.loads(run.config_path.read_text()) | change))
    with pytest.raises(ValueError, match=f"{run.config_path} is damaged"):
        Trainer.resume(run.directory)


def test_a_missing_setting_is_named(run):
    settings = json.loads(run.config_path.read_text())
    del settings["lr"], settings["beta2"]
    run.config_path.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=f"{run.config_path} is damaged: it has no beta2, no lr"):
        Trainer.resume(run.directory)


def test_a_run_with_other_settings_can_still_be_read(run):
    """A later version may have other settings, but it must be able to use the model."""
    settings = json.loads(run.config_path.read_text()) | {"optimizer": "muon"}
    del settings["lr"]
    run.config_path.write_text(json.dumps(settings))
    assert TextModel.open(run.directory).model.config == run.load()[0].config


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * 200_000])
def test_a_damaged_metrics_file_is_named(run, content):
    run.metrics_path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{run.metrics_path} is damaged"):
        Trainer.resume(run.directory)


@pytest.mark.parametrize("content", [b'["b", "a"]', b"[1]", b"{}", b"x"])
def test_a_damaged_vocabulary_is_named(run, content):
    run.vocabulary_path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{run.vocabulary_path} is damaged"):
        Run.open(run.directory)


def test_the_vocabulary_of_another_run_is_noticed(run):
    run.vocabulary_path.write_text('["a", "b"]')
    with pytest.raises(ValueError, match="has 2 characters, but the model .* vocab_size=28"):
        Run.open(run.directory).load()


def test_another_text_is_noticed(run):
    run.text_path.write_text(TEXT + "!")
    with pytest.raises(ValueError, match="is not the text that the run began with"):
        Trainer.resume(run.directory)


def test_a_truncated_checkpoint_is_named(run):
    run.checkpoint_path.write_bytes(run.checkpoint_path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=f"{run.checkpoint_path} is damaged"):
        Trainer.resume(run.directory)


def test_the_checkpoint_of_another_run_is_noticed(run, tmp_path):
    other = Trainer.start(tmp_path / "other", replace(TINY, n_layer=1), TEXT).run
    os.replace(other.checkpoint_path, run.checkpoint_path)
    with pytest.raises(ValueError, match="belongs to another run"):
        Trainer.resume(run.directory)


def test_the_checkpoint_of_another_precision_is_noticed(run, tmp_path):
    other = Trainer.start(tmp_path / "other", replace(TINY, dtype="float64"), TEXT).run
    os.replace(other.checkpoint_path, run.checkpoint_path)
    with pytest.raises(ValueError, match="belongs to another run .* of float64"):
        Trainer.resume(run.directory)


@pytest.mark.parametrize("n_layer", [3, 10**9])
def test_a_config_of_another_model_is_noticed_before_it_is_made(run, n_layer):
    settings = json.loads(run.config_path.read_text()) | {"n_layer": n_layer}
    run.config_path.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="belongs to another run"):
        Trainer.resume(run.directory)


@pytest.mark.parametrize(
    "change",
    [
        *({"step": 13}, {"step": -1}, {"step": 1.5}, {"step": None}, {"val_loss": None}),
        *({"seconds": "x"}, {"seconds": 10**400}, {"rng": {}}, {"model_rng": None}),
        {"rng": {**RNG, "uinteger": -1}},
        {"model_rng": {**RNG, "state": {"state": -1, "inc": 1}}},
    ],
)
def test_a_state_that_makes_no_sense_is_refused(run, change):
    model, meta, arrays = run.load()
    run.save(model, arrays=arrays, meta={**meta, **change})
    with pytest.raises(ValueError, match=f"{run.checkpoint_path} cannot be resumed from"):
        Trainer.resume(run.directory)


def test_a_checkpoint_without_moments_cannot_be_resumed_from(run):
    model, meta, _ = run.load()
    run.save(model, arrays={}, meta=meta)
    with pytest.raises(ValueError, match="cannot be resumed from"):
        Trainer.resume(run.directory)
