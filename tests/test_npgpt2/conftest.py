"""A small GPT-2 tokenizer, for the tests of tokenizers and of text."""

from __future__ import annotations

import pytest

from npgpt2.disk.tokenizer import PretrainedTokenizer
from npgpt2.training.data import python_reference
from tests.optional import has, skip_without

if has("tokenizers"):
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

END = "<|endoftext|>"
collect_ignore = [] if has("torch") else ["torch_gpt2.py"]  # or the doctest search imports it


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """A small GPT-2 tokenizer in both forms: tokenizer.json; vocab.json and merges.txt."""
    skip_without("tokenizers")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    text = python_reference()[:20_000] + "déjà vu 😀😃 “quoted” " * 20
    tokenizer.train_from_iterator([text], trainer)
    whole, parts = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("parts")
    tokenizer.save(str(whole / "tokenizer.json"))
    tokenizer.model.save(str(parts))
    return whole, parts


@pytest.fixture(scope="module", params=[0, 1], ids=["tokenizer.json", "vocab.json and merges.txt"])
def directory(request, directories):
    return directories[request.param]


@pytest.fixture(scope="module")
def gpt2(directory):
    return PretrainedTokenizer.open(directory)
