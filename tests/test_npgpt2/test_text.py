"""Models with their tokenizers: their texts, their directories, and export."""

from __future__ import annotations

import json

import numpy as np
import pytest

from npgpt2 import GPT2Config
from npgpt2.config import TrainingConfig
from npgpt2.disk.tokenizer import Vocabulary
from npgpt2.generation.sampling import Sampling
from npgpt2.text import TextModel, export, read_config
from npgpt2.training.trainer import Trainer
from tests.optional import has, needs, skip_without
from tests.test_npgpt2.cases import random_model

if has("tokenizers"):
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

SIZES = {"n_positions": 12, "n_embd": 16, "n_layer": 1, "n_head": 2}
VOCABULARY = Vocabulary.of("the quick brown fox.\n")


def small_model(vocab_size, dtype=np.float32):
    return random_model(GPT2Config(vocab_size=vocab_size, **SIZES), dtype=dtype).eval()


@pytest.fixture(scope="module")
def characters():
    return TextModel(small_model(len(VOCABULARY)), VOCABULARY)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "run"
    text = "the quick brown fox.\n" * 20
    trainer = Trainer.start(directory, TrainingConfig(steps=3, batch_size=2, **SIZES), text)
    assert trainer.train()
    return trainer.run


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A small GPT-2 with 320 ids for 275 tokens; two of its three end ids are tokens."""
    skip_without("safetensors", "tokenizers")
    directory = tmp_path_factory.mktemp("pretrained")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=275,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["to be, or not to be: that is the question " * 9], trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    small_model(320).save_pretrained(directory)
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [0, 7, 275]}))
    return directory


# -- text ----------------------------------------------------------------------------------------


def test_the_text_is_that_of_the_tokens(characters):
    ids = VOCABULARY.encode("the fox")[None]
    for sampling in (Sampling(0.0), Sampling(2.0, top_k=5)):
        pieces = list(characters.stream("the fox", 30, sampling, rng=1))
        out = characters.model.generate(
            ids, 30, sampling.temperature, sampling.top_k, rng=1, sliding_window=True
        )
        assert "".join(pieces) == VOCABULARY.decode(out[0, 7:])
        assert len(pieces) == 31 and pieces[-1] == ""  # one piece per token, then the rest


def test_it_ends_before_a_stop_string(characters):
    whole = "".join(characters.stream("the", 40, Sampling(3.0), rng=2))
    stop = whole[20:22]
    end = whole.index(stop)
    pieces = list(characters.stream("the", 40, Sampling(3.0), rng=2, stop=["never", stop]))
    assert "".join(pieces) == whole[:end] and end <= 20
    assert len(pieces) == end + 2 + 1  # no token follows it; the last piece is empty


def test_without_a_prompt_a_text_begins_with_a_new_line_or_any_token(
    characters,
):
    begun = "".join(characters.stream(None, 9, Sampling(0.0)))
    assert begun == "".join(characters.stream("\n", 9, Sampling(0.0)))
    no_lines = TextModel(small_model(3), Vocabulary("abc"))
    begun = "".join(no_lines.stream(None, 9, Sampling(0.0)))
    assert begun == "".join(no_lines.stream("a", 9, Sampling(0.0)))


def test_gpt2_begins_after_the_end_of_a_text_and_stops_at_the_next(pretrained):
    model = TextModel.open(pretrained)
    assert model.end == (0, 7)
    begun = "".join(model.stream(None, 9, Sampling(0.0)))
    assert begun == "".join(model.stream("<|endoftext|>", 9, Sampling(0.0)))
    first = model.tokenizer.encode(begun)[:1]
    model.model.wte.weight.data[0] = 3.0 * model.model.wte.weight.data[first[0]]  # more probable
    assert list(model.stream("<|endoftext|>", 9, Sampling(0.0))) == [""]


def test_ids_without_a_token_are_never_part_of_a_text(pretrained):
    model = TextModel.open(pretrained)
    assert len(model.tokenizer) == 275 and model.model.config.vocab_size == 320
    model.model.wte.weight.data[275:] *= 30.0
    free = model.model.generate([[5, 6]] * 4, 10, 1.0, rng=0)[:, 2:]
    assert (free >= 275).any()
    for seed in range(4):
        list(model.stream("to be", 10, Sampling(1.0), rng=seed))  # to decode such an id is an error


def test_an_empty_prompt_and_unknown_characters_are_refused_at_once(characters, pretrained):
    for model in (characters, TextModel.open(pretrained)):
        with pytest.raises(ValueError, match="the prompt is empty"):
            model.stream("", 1)
    with pytest.raises(ValueError, match="character 'Z' at position 1 is not among"):
        characters.stream("tZ", 1)
    with pytest.raises(ValueError, match="a stop string is empty"):
        characters.stream("the", 1, stop="")
    with pytest.raises(ValueError, match="max_new_tokens=-1"):
        characters.stream("the", -1)


# -- directories ---------------------------------------------------------------------------------


def test_a_run_is_opened_with_its_vocabulary(run):
    model = TextModel.open(run.directory)
    assert model.tokenizer == run.vocabulary and model.end == ()
    assert read_config(run.directory) == model.model.config


def test_a_pretrained_directory_is_opened_with_its_tokenizer(pretrained):
    model = TextModel.open(str(pretrained))
    assert model.tokenizer.decode(model.tokenizer.encode("to be né")) == "to be né"
    assert read_config(pretrained) == model.model.config
    ids = model.tokenizer.encode("to be")[None]
    expected = small_model(320)(ids).data
    np.testing.assert_allclose(model.model(ids).data, expected, rtol=1e-4, atol=1e-5)


def test_a_tokenizer_of_more_ids_than_the_model_has_is_refused():
    with pytest.raises(ValueError, match="has 21 ids, but the model has vocab_size=20; take the"):
        TextModel(small_model(20), Vocabulary("".join(map(chr, range(65, 86)))))


def test_all_that_is_wrong_with_a_directory_is_one_error(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError) as error:
        TextModel.open(tmp_path)
    for part in (
        "has no tokenizer: it has no tokenizer.json, no vocab.json, no merges.txt",
        "config.json is missing",
        "pytorch_model.bin is not read, because a pickle can run any code",
    ):
        assert part in str(error.value)


def test_other_files_make_no_run_of_a_pretrained_directory(pretrained):
    for name in ("text.txt", "vocabulary.json", "checkpoint.npz"):
        (pretrained / name).touch()
        try:
            assert read_config(pretrained).vocab_size == 320
        finally:
            (pretrained / name).unlink()


def test_a_run_without_its_checkpoint_is_called_that(run, tmp_path):
    for name in ("text.txt", "vocabulary.json"):
        (tmp_path / name).write_bytes((run.directory / name).read_bytes())
        with pytest.raises(ValueError, match="is not a run directory: .*no checkpoint.npz"):
            read_config(tmp_path)
        (tmp_path / name).unlink()


@pytest.mark.parametrize("read", [TextModel.open, read_config])
def test_a_directory_of_nothing_is_no_run(tmp_path, read):
    with pytest.raises(ValueError, match="is not a run directory: it has no config.json"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere is not a directory"):
        read(tmp_path / "nowhere")


# -- export --------------------------------------------------------------------------------------


@needs("safetensors", "tokenizers")
def test_an_exported_run_is_the_same_model_with_the_same_vocabulary(run, tmp_path):
    export(run, tmp_path / "a" / "exported")
    files = "config.json generation_config.json model.safetensors tokenizer.json"
    names = sorted(path.name for path in (tmp_path / "a" / "exported").iterdir())
    assert names == [*files.split(), "tokenizer_config.json"]
    before, after = TextModel.open(run.directory), TextModel.open(tmp_path / "a" / "exported")
    assert before.end == after.end == ()
    text = "the quick fox.\n brown"
    ids = after.tokenizer.encode(text)
    assert np.array_equal(ids, run.vocabulary.encode(text))
    assert after.tokenizer.decode(ids) == text
    state = after.model.state_dict()
    for name, array in before.model.state_dict().items():
        assert array.tobytes() == state[name].tobytes(), name


def test_an_export_replaces_nothing_and_leaves_nothing_behind_when_it_fails(
    run, tmp_path, monkeypatch
):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("kept")
    with pytest.raises(FileExistsError, match="full exists and is not empty"):
        export(run, tmp_path / "full")
    (tmp_path / "empty").mkdir()
    export(run, tmp_path / "empty")

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("npgpt2.disk.huggingface.write", fail)
    with pytest.raises(OSError, match="disk full"):
        export(run, tmp_path / "new")
    assert [*(tmp_path / "new").iterdir()] == []
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file"]


def test_transformers_loads_an_exported_run(run, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    export(run, tmp_path / "exported")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    text = "the quick fox.\n brown"
    encoded = tokenizer(text, return_tensors="pt")
    ids = run.vocabulary.encode(text)[None]
    assert np.array_equal(encoded.input_ids.numpy(), ids)
    assert tokenizer.decode(encoded.input_ids[0]) == text
    ids = ids[:, :12]
    logits = model(encoded.input_ids[:, :12]).logits.detach().numpy()
    np.testing.assert_allclose(logits, run.load()[0](ids).data, rtol=1e-4, atol=1e-5)
