"""Tokenizers from directories, and vocabularies of characters, which are saved as tokenizers."""

from __future__ import annotations

import json
import re
import string
import sys
import tempfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt2.disk.tokenizer import PretrainedTokenizer, Vocabulary, save_vocabulary
from npgpt2.training.data import python_reference
from tests.optional import has, needs

if has("tokenizers"):
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

END = "<|endoftext|>"


@pytest.fixture
def rewritten(directories, tmp_path):
    """Return a function that writes a changed tokenizer.json and opens it."""

    def rewrite(part, **changes):
        content = json.loads((directories[0] / "tokenizer.json").read_bytes())
        content[part] |= changes
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        return PretrainedTokenizer.open(tmp_path)

    return rewrite


def test_a_tokenizer_may_put_a_space_in_front_of_a_text(rewritten, directories):
    spaced = rewritten("pre_tokenizer", add_prefix_space=True)
    plain = PretrainedTokenizer.open(directories[0])
    for text in ("hello world", " hello", "h", "é\n"):
        expected = text if text.startswith(" ") else " " + text
        assert np.array_equal(spaced.encode(text), plain.encode(expected))


def test_merges_are_never_left_out_at_random(rewritten, directories):
    text = python_reference()[:500]
    expected = PretrainedTokenizer.open(directories[0]).encode(text)
    assert np.array_equal(rewritten("model", dropout=0.5).encode(text), expected)


# -- GPT-2's own tokenizer -----------------------------------------------------------------------


def byte_characters():
    """Return GPT-2's character for each byte: itself if it is printable, otherwise from 256 on."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printed]
    return {b: chr(b) for b in printed} | {b: chr(256 + n) for n, b in enumerate(rest)}


BYTES = byte_characters()


class PlainBPE:
    """GPT-2's encoding of ASCII, written out."""

    def __init__(self, directory):
        self.ids = json.loads((directory / "vocab.json").read_bytes())
        lines = (directory / "merges.txt").read_text("utf-8").splitlines()[1:]
        self.ranks = {tuple(line.split(" ")): rank for rank, line in enumerate(lines)}
        self.words = re.compile(  # \p{L} and \p{N} are spelled out for ASCII
            r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+",
            re.ASCII,
        )

    def encode(self, text):
        return [self.ids[part] for word in self.words.findall(text) for part in self.merge(word)]

    def merge(self, word):
        parts = [BYTES[byte] for byte in word.encode()]
        while True:
            pairs = [pair for pair in zip(parts, parts[1:], strict=False) if pair in self.ranks]
            if not pairs:
                return parts
            best, merged = min(pairs, key=self.ranks.__getitem__), []
            while parts:
                n = 2 if tuple(parts[:2]) == best else 1
                merged.append("".join(parts[:n]))
                parts = parts[n:]
            parts = merged


words = st.sampled_from(
    "the statement is evaluated don't we'll  \n\n\t (x): 12 3.5 __init__ 's 'S\r\n".split(" ")
)
ascii_texts = st.lists(words | st.text(string.printable, max_size=5)).map(" ".join)


@given(ascii_texts)
def test_ids_are_those_of_the_algorithm_written_out(directories, gpt2, text):
    ids = gpt2.encode(text)
    assert ids.dtype == np.uint32
    assert ids.tolist() == PlainBPE(directories[1]).encode(text)


def test_ids_of_a_long_text_are_those_of_the_algorithm_and_merges_are_used(directories, gpt2):
    text = "".join(c for c in python_reference()[20_000:30_000] if c.isascii())
    ids = gpt2.encode(text)
    assert ids.tolist() == PlainBPE(directories[1]).encode(text)
    assert len(ids) < 0.7 * len(text)


@given(st.text())
def test_any_text_comes_back(gpt2, text):
    assert gpt2.decode(gpt2.encode(text)) == text


def test_special_tokens_are_one_id_and_stay_in_the_text(gpt2):
    assert len(gpt2) == 400
    ids = gpt2.encode(f" a{END}\nb {END}")
    assert ids[[1, -1]].tolist() == [0, 0] and len(ids) == 6
    assert gpt2.decode(ids) == f" a{END}\nb {END}"
    assert gpt2.encode("").shape == (0,) and gpt2.decode([]) == ""


def test_ids_out_of_range_are_errors(gpt2):
    for i in (-1, 400, 2**40):
        with pytest.raises(IndexError, match=rf"ids\[1\] = {i} is out of range.*\[0, 400\)"):
            gpt2.decode([5, i])
    with pytest.raises(TypeError, match="integers"):
        gpt2.decode([0.5])


def test_surrogates_are_named(gpt2):
    with pytest.raises(ValueError, match=r"character '\\ud83d' at position 2 is not among"):
        gpt2.encode("ab\ud83d")


def test_tokens_may_end_within_a_character(gpt2):
    ids = gpt2.encode("🐍")  # not among the texts it was trained on
    assert len(ids) > 1
    assert gpt2.decode(ids[:-1]).endswith("\ufffd") and gpt2.decode(ids) == "🐍"


# -- directories ---------------------------------------------------------------------------------


def copied(directory, tmp_path):
    for path in directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_added_tokens_have_the_ids_of_their_file(directories, tmp_path):
    path = copied(directories[1], tmp_path)
    (path / "added_tokens.json").write_text('{"<b>": 401, "<a>": 400}')
    tokenizer = PretrainedTokenizer.open(path)
    assert len(tokenizer) == 402
    assert tokenizer.encode(f"<b>{END}<a>").tolist() == [401, 0, 400]
    assert tokenizer.decode([401, 0, 400]) == f"<b>{END}<a>"
    (path / "added_tokens.json").write_text('{"<a>": 402}')
    with pytest.raises(ValueError, match="'<a>' the id 402, but 400 is the next"):
        PretrainedTokenizer.open(path)


@needs("tokenizers")
def test_a_vocabulary_without_endoftext_gets_none(tmp_path):
    ids = {character: i for i, character in enumerate(sorted(BYTES.values()))}
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    (tmp_path / "merges.txt").write_text("#version: 0.2\r\n")
    tokenizer = PretrainedTokenizer.open(tmp_path)
    assert len(tokenizer) == 256 and len(tokenizer.encode(END)) == len(END)


def test_tokenizer_json_comes_first(directories, tmp_path):
    path = copied(directories[1], tmp_path)
    save_vocabulary(Vocabulary("ab"), path)
    assert len(PretrainedTokenizer.open(path)) == 2


def test_what_is_missing_is_named(directories, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a directory"):
        PretrainedTokenizer.open(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no tokenizer.json, no vocab.json, no merges.txt$"):
        PretrainedTokenizer.open(tmp_path)
    (copied(directories[1], tmp_path) / "vocab.json").unlink()
    with pytest.raises(ValueError, match=f"{tmp_path} has no .*no tokenizer.json, no vocab.json$"):
        PretrainedTokenizer.open(tmp_path)


def test_all_that_is_damaged_is_named_at_once(directories, tmp_path):
    path = copied(directories[1], tmp_path)
    for name in ("vocab.json", "added_tokens.json"):
        (path / name).write_text('{"a": ')
    (path / "merges.txt").write_text("#version: 0.2\na b\na b c\n")
    with pytest.raises(ValueError) as error:
        PretrainedTokenizer.open(path)
    for problem in ("vocab.json is", "merges.txt is damaged: line 3 is 'a b c'", "added_tokens"):
        assert problem in str(error.value)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"a": "b"}', '{"a": -1}', '{"a": true}', "[" * 100_000, b"\xff"]
)
def test_a_damaged_vocabulary_is_refused(directories, tmp_path, content):
    path = copied(directories[1], tmp_path)
    (path / "vocab.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=f"{tmp_path}: vocab.json is damaged"):
        PretrainedTokenizer.open(path)


def test_merges_of_another_vocabulary_are_refused(directories, tmp_path):
    path = copied(directories[1], tmp_path)
    (path / "merges.txt").write_text("unheard of\n")
    with pytest.raises(ValueError, match="merges.txt does not fit vocab.json: .*unheard"):
        PretrainedTokenizer.open(path)
    (path / "merges.txt").write_bytes(b"\xff \xff\n")
    with pytest.raises(ValueError, match="merges.txt is damaged: .*0xff"):
        PretrainedTokenizer.open(path)


@needs("tokenizers")
@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000])
def test_a_damaged_tokenizer_json_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path}/tokenizer.json is damaged: "):
        PretrainedTokenizer.open(tmp_path)


def test_without_the_package_the_extra_is_named(directory, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install 'npgpt2\[hf\]'"):
        PretrainedTokenizer.open(directory)


def test_truncation_and_padding_of_the_file_are_ignored(directories, tmp_path):
    tokenizer = tokenizers.Tokenizer.from_file(str(directories[0] / "tokenizer.json"))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=20)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    text = "Not more, not less."
    expected = PretrainedTokenizer.open(directories[0]).encode(text)
    np.testing.assert_array_equal(PretrainedTokenizer.open(tmp_path).encode(text), expected)


@needs("tokenizers")
def test_what_a_tokenizer_would_drop_in_silence_is_an_error():
    incomplete = tokenizers.Tokenizer(models.BPE({"Ã": 0, "a": 1}, []))
    incomplete.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    incomplete.decoder = decoders.ByteLevel()
    assert incomplete.encode("aéa").ids == [1, 0, 1]  # é is two bytes; Ã stands for the first
    for text in ("aéa", "aba"):
        with pytest.raises(ValueError, match=f"'{text[1]}' at position 1 is not among"):
            PretrainedTokenizer(incomplete).encode(text)


@needs("tokenizers")
def test_unknown_tokens_and_normalisation_are_the_tokenizer_s_own_affair():
    ids = {"[UNK]": 0, "one": 1, "two": 2}
    words = tokenizers.Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PretrainedTokenizer(words)
    assert tokenizer.encode("two \n three").tolist() == [2, 0]
    assert tokenizer.decode([2, 0]) == "two [UNK]"
    with pytest.raises(ValueError, match="position 4"):
        tokenizer.encode("two \ud800")

    lower = tokenizers.Tokenizer(models.BPE({"a": 0}, []))
    lower.normalizer = tokenizers.normalizers.Lowercase()
    assert PretrainedTokenizer(lower).encode("A").tolist() == [0]
    spaced = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1}, []))  # no decoder: joined by spaces
    assert PretrainedTokenizer(spaced).encode("ab").tolist() == [0, 1]


@needs("tokenizers")
def test_other_errors_of_the_package_are_passed_on():
    words = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="[UNK]"))
    with pytest.raises(Exception, match="UNK"):  # both characters are known, but not the word
        PretrainedTokenizer(words).encode("ab")


@needs("tokenizers")
def test_ids_that_a_file_leaves_out_have_no_text():
    tokenizer = PretrainedTokenizer(tokenizers.Tokenizer(models.BPE({"a": 0, "b": 5}, [])))
    assert len(tokenizer) == 6
    assert tokenizer.decode([3]) == ""
    assert len(PretrainedTokenizer(tokenizers.Tokenizer(models.BPE()))) == 0


# -- vocabularies of characters ------------------------------------------------------------------

alphabets = st.text(
    st.characters(exclude_categories=["Cs"])
    | st.sampled_from("\n\t\r \u00a0\u2028.*[]\\^$()😀e\u0301é\0\x7f\ufffd\ufeff"),
    min_size=1,
)


@needs("tokenizers")
@given(alphabets, st.data())
def test_a_vocabulary_comes_back(alphabet, data):
    vocabulary = Vocabulary.of(alphabet)
    text = data.draw(st.text(st.sampled_from(alphabet)))
    with tempfile.TemporaryDirectory() as directory:
        save_vocabulary(vocabulary, directory)
        tokenizer = PretrainedTokenizer.open(directory)
        plain = tokenizers.Tokenizer.from_file(f"{directory}/tokenizer.json")
    assert len(tokenizer) == len(vocabulary)
    ids = vocabulary.encode(text)
    assert tokenizer.encode(text).dtype == ids.dtype
    assert tokenizer.encode(text).tolist() == plain.encode(text).ids == ids.tolist()
    assert tokenizer.decode(ids) == plain.decode(ids.tolist()) == text


@needs("tokenizers")
@given(st.text(min_size=1), st.characters())
def test_an_unknown_character_is_named_as_the_vocabulary_does(text, character):
    known = text.replace(character, "")
    if known:
        with tempfile.TemporaryDirectory() as directory:
            save_vocabulary(Vocabulary.of(known), directory)
            tokenizer = PretrainedTokenizer.open(directory)
        with pytest.raises(ValueError) as error:
            tokenizer.encode(known + character)
        assert f"{character!r} at position {len(known)}" in str(error.value)


@needs("tokenizers")
def test_every_character_there_is(tmp_path):
    codes = [*range(0xD800), *range(0xE000, 0x110000)]
    sample = [*codes[:0x3100], *codes[0x3100::97], *codes[-20:]]
    vocabulary = Vocabulary("".join(map(chr, sample)))
    save_vocabulary(vocabulary, tmp_path / "new" / "directory")
    tokenizer = PretrainedTokenizer.open(tmp_path / "new" / "directory")
    twice = "".join(2 * character for character in vocabulary.characters)
    assert tokenizer.encode(twice).tolist() == np.repeat(range(len(sample)), 2).tolist()


def test_surrogates_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match=r"'\\udfff' is a surrogate"):
        save_vocabulary(Vocabulary("a\udfff"), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_transformers_reads_a_vocabulary(tmp_path):
    transformers = pytest.importorskip("transformers")
    vocabulary = Vocabulary.of("\0\t\n\r  !'.,<unk>|endoftext▁Ġ##é e\u0301😀\u200d\u00a0?n't")
    save_vocabulary(vocabulary, tmp_path)
    config = {"model_type": "gpt2", "vocab_size": len(vocabulary), "bos_token_id": 50256}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == len(vocabulary)
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list(vocabulary.characters), 50)) for _ in range(50)]
    for text in [*texts, "<|endoftext|>", "  don't . \n\n\t e ' , ?  ", "<unk>"]:
        ids = vocabulary.encode(text).tolist()
        assert tokenizer.encode(text) == tokenizer(text)["input_ids"] == ids
        assert tokenizer.decode(ids) == text


def test_characters_alone_need_no_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    save_vocabulary(Vocabulary("ab"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]


# -- characters as tokens -------------------------------------------------------------------------


@pytest.mark.parametrize("ids, error", [([-1], IndexError), ([3], IndexError), ([1.0], TypeError)])
def test_ids_of_no_character_are_refused(ids, error):
    with pytest.raises(error, match="ids"):
        Vocabulary("abc").decode(ids)


@given(st.text(min_size=1))
def test_decode_inverts_encode(text):
    vocabulary = Vocabulary.of(text)
    ids = vocabulary.encode(text)
    assert ids.shape == (len(text),)
    assert vocabulary.decode(ids) == text
    assert set(ids) == set(range(len(vocabulary)))


@given(st.text(min_size=1), st.characters())
def test_an_unknown_character_is_named_with_its_position(text, character):
    known = text.replace(character, "")
    if known:
        with pytest.raises(ValueError) as error:
            Vocabulary.of(known).encode(known + character)
        assert f"{character!r} at position {len(known)}" in str(error.value)


@pytest.mark.parametrize("characters", ["", "ba", "aa"])
def test_a_vocabulary_is_sorted_and_has_no_duplicates(characters):
    with pytest.raises(ValueError, match="ascending"):
        Vocabulary(characters)
