"""A stream of tokens becomes text: all of it, as early as possible, up to a stop string."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt2.disk.tokenizer import PretrainedTokenizer, Vocabulary
from npgpt2.text import TextStream
from tests.optional import has, needs
from tests.test_npgpt2.test_disk.test_tokenizer import BYTES

if has("tokenizers"):
    import tokenizers
    from tokenizers import decoders, models


def byte_tokens(tokens):
    """Return a tokenizer of these byte strings."""
    ids = {"".join(BYTES[b] for b in token): i for i, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(ids, unk_token="none"))
    tokenizer.decoder = decoders.ByteLevel()
    return PretrainedTokenizer(tokenizer)


# Parts of characters of 1 to 4 bytes, whole characters, and bytes that are never valid.
PARTS = "41 e2 80 99 c3 a9 f0 9f 98 ff ed a0 ef bf bd 8041e2 80e2 9f98 f09f98 e28099f0 bfbdef c3a9"
PIECES = [bytes.fromhex(part) for part in PARTS.split()]


@needs("tokenizers")
@given(st.lists(st.integers(0, len(PIECES) - 1)))
def test_a_stream_returns_the_whole_text_as_early_as_can_be(ids):
    tokenizer = byte_tokens(PIECES)
    stream, text, content = TextStream(tokenizer), "", b""
    for i in ids:
        text += stream.push(i)
        content += PIECES[i]
        assert text == content.decode(errors="replace").removesuffix("\ufffd")
    text += stream.close()
    assert text == content.decode(errors="replace") == tokenizer.decode(ids)
    assert stream.close() == "" and not stream.stopped


@given(st.lists(st.integers(0, 399)))
def test_a_stream_of_gpt2_tokens_is_the_text_of_all(gpt2, ids):
    stream = TextStream(gpt2)
    assert "".join([*map(stream.push, ids), stream.close()]) == gpt2.decode(ids)


@given(st.text(min_size=1))
def test_a_stream_of_encoded_text_is_the_text(gpt2, text):
    for tokenizer in (gpt2, Vocabulary.of(text)):
        stream = TextStream(tokenizer)
        assert "".join([*map(stream.push, tokenizer.encode(text)), stream.close()]) == text


@needs("tokenizers")
def test_tokens_without_text_change_nothing():
    tokenizer = tokenizers.Tokenizer(models.BPE({"": 0, "Ã": 1, "©": 2, "b": 7}, []))
    tokenizer.decoder = decoders.ByteLevel()
    stream = TextStream(PretrainedTokenizer(tokenizer))
    pushed = [stream.push(i) for i in (1, 0, 5, 0, 5, 0, 2, 7)]
    assert pushed == ["", "", "", "", "", "", "é", "b"]


@pytest.mark.parametrize("piece", [b"\x80", b"a", b"\xe2", b"\x80A\xe2"])
def test_a_token_costs_the_same_however_many_were_before(piece):
    class Counting:
        decoded = 0

        def __len__(self):
            return 1

        def encode(self, text):
            raise NotImplementedError

        def decode(self, ids):
            self.decoded += len(ids)
            return (piece * len(ids)).decode(errors="replace")

    tokenizer = Counting()
    stream = TextStream(tokenizer)
    text = "".join(stream.push(0) for _ in range(1000)) + stream.close()
    assert text == (piece * 1000).decode(errors="replace")
    assert tokenizer.decoded <= 20 * 1000


def first_complete(text, stops):
    """Return the text before the stop string that ends first, and whether there is one."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], True
    return text, False


@given(st.text("ab\n"), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3))
def test_a_stream_ends_before_a_stop_string(text, stops):
    vocabulary = Vocabulary("\nab")
    stream, parts = TextStream(vocabulary, stops), []
    expected, stopped = first_complete(text, stops)
    for n, token in enumerate(vocabulary.encode(text), start=1):
        parts.append(stream.push(token))
        assert stream.stopped == first_complete(text[:n], stops)[1]
        if not stream.stopped:  # only a beginning of a stop string is held back
            held = text[:n].removeprefix("".join(parts))
            assert not held or any(s.startswith(held) for s in stops)
    parts.append(stream.close())
    assert "".join(parts) == expected and stream.stopped == stopped


@needs("tokenizers")
@given(st.lists(st.integers(0, len(PIECES) - 1)), st.lists(st.text("A\ufffd’é", min_size=1)))
def test_stop_strings_do_not_depend_on_how_text_is_cut_into_tokens(ids, stops):
    stream = TextStream(byte_tokens(PIECES), stops)
    text = "".join([*map(stream.push, ids), stream.close()])
    content = b"".join(PIECES[i] for i in ids)
    assert (text, stream.stopped) == first_complete(content.decode(errors="replace"), stops)


def test_one_stop_string_may_stand_alone_and_none_may_be_empty():
    vocabulary = Vocabulary("abc")
    stream = TextStream(vocabulary, "bc")
    assert [stream.push(i) for i in (0, 1, 0, 1, 2, 0)] == ["a", "", "ba", "", "", ""]
    assert stream.stopped and stream.close() == ""
    for stop in ("", ["a", ""]):
        with pytest.raises(ValueError, match="empty"):
            TextStream(vocabulary, stop)
