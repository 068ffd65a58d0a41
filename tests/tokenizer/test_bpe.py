import json
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from dunwu.core.errors import TokenizerError
from dunwu.tokenizer import bpe
from dunwu.tokenizer.bpe import SPECIAL_TOKENS, Tokenizer, train_tokenizer
from dunwu.tokenizer.pattern import RUN_CJK, RUN_SPACES, safe_pieces
from dunwu.tokenizer.stream import StreamDecoder

ANY_CHARACTER = st.characters(exclude_categories=[])  # lone surrogates, NUL, control and unassigned characters too
CROWDED = st.text(
    st.sampled_from(" \t\n\r\u3000\xa0aé中の1٣.,'\"#🙂\u200d\u0301\0s<|im_end|>")
)  # near each pattern's edge


@pytest.fixture(scope="module")
def plain(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """The same file read by Hugging Face's engine, told not to parse special tokens out of text."""
    loaded = tokenizers.Tokenizer.from_file(str(tokenizer.folder / "tokenizer.json"))
    loaded.encode_special_tokens = True
    return loaded


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(ANY_CHARACTER), CROWDED))
def test_any_string_round_trips_with_the_ids_of_hugging_face(tokenizer, plain, text):
    well_formed = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == well_formed
    assert ids == plain.encode(well_formed).ids
    assert not set(ids) & set(tokenizer.special_ids.values())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 499), max_size=30))
def test_streamed_text_is_the_decoded_text_even_of_broken_utf8(tokenizer, numbers):
    ids = [number % tokenizer.vocab_size for number in numbers]
    stream = StreamDecoder(tokenizer)
    assert "".join(map(stream.push, ids)) + stream.finish() == tokenizer.decode(ids)


def test_stream_withholds_half_a_character(tokenizer):
    stream = StreamDecoder(tokenizer)
    pieces = [stream.push(number) for number in tokenizer.encode("𠮷🧬")]
    assert "".join(pieces) == "𠮷🧬"
    assert all("\ufffd" not in piece for piece in pieces)
    assert "" in pieces  # these characters are not in the vocabulary: they take several ids


def test_every_code_point_is_cut_alike_by_both_engines(tokenizer, plain):
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    for start in range(0, len(characters), 4096):
        text = "a".join(characters[start : start + 4096]) + " 中1" + " ".join(characters[start : start + 4096])
        assert tokenizer.encode(text) == plain.encode(text).ids


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(st.sampled_from("ab "), min_size=1, max_size=30), min_size=2, max_size=30),
    st.text(st.sampled_from("ab "), max_size=60),
)
def test_merges_apply_alike_on_vocabularies_of_overlapping_tokens(tmp_path_factory, texts, text):
    small = train_tokenizer(texts, vocab_size=400, out=tmp_path_factory.mktemp("overlap"))
    assert small.encode(text) == tokenizers.Tokenizer.from_file(str(small.folder / "tokenizer.json")).encode(text).ids


def test_special_tokens_have_the_first_ids_and_are_plain_text_inside_a_text(tokenizer):
    assert [tokenizer.special_ids[name] for name in SPECIAL_TOKENS] == [0, 1, 2]
    assert (tokenizer.eos_id, tokenizer.im_start_id, tokenizer.im_end_id) == (0, 1, 2)
    ids = tokenizer.encode("<|im_end|><|endoftext|>")
    assert min(ids) > 2
    assert tokenizer.decode([*ids, 2]) == "<|im_end|><|endoftext|>"
    assert tokenizer.decode([2], skip_special=False) == "<|im_end|>"


def test_cuts_suit_english_chinese_digits_and_code(tokenizer):
    def pieces(text: str) -> list[str]:
        cut = tokenizers.pre_tokenizers.Split(tokenizers.Regex(bpe.PATTERN), "isolated")
        return [piece for piece, _ in cut.pre_tokenize_str(text)]

    assert pieces("It's 1984 again") == ["It", "'s", " ", "1", "9", "8", "4", " again"]
    assert pieces("用Python写代码 naïve") == ["用", "Python", "写代码", " naïve"]
    assert pieces("if x:\n        return x") == ["if", " x", ":\n", "       ", " return", " x"]
    assert pieces("明白了。\n\n次日") == ["明白了", "。\n\n", "次日"]
    longest = max(map(len, pieces(" " * 2000 + "中" * 2000 + "\n" * 2000)))
    assert longest <= max(RUN_CJK, 2 * RUN_SPACES)
    # llama.cpp cuts these nowhere, and Thai has no blanks between its words
    assert pieces("a" * 2000 + "!" * 2000 + "ก" * 2000) == ["a" * 2000, "!" * 2000, "ก" * 2000]


@pytest.mark.parametrize("unit", ["a", " ", "中", "!", "\n", "7", "ab ", "🙂", "\0", "\u0301", "  \n"])
def test_a_million_characters_without_a_break_take_linear_time(tokenizer, unit):
    text = unit * (1_000_000 // len(unit))
    start = time.process_time()
    ids = tokenizer.encode_array(text)
    assert time.process_time() - start < 5  # quadratic time would be minutes; backtracking would overflow the stack
    assert tokenizer.decode(ids.tolist()) == text


@settings(max_examples=200, deadline=None)
@given(st.one_of(CROWDED, st.text()), st.integers(1, 20))
def test_cutting_a_long_text_into_pieces_changes_no_id(tokenizer, text, size):
    pieces = list(safe_pieces(text, size))
    assert "".join(pieces) == text
    assert [number for piece in pieces for number in tokenizer.encode(piece)] == tokenizer.encode(text)


def test_long_texts_are_really_cut(tokenizer, monkeypatch):
    text = "明白，the dog. " * 500
    whole = tokenizer.encode(text)
    monkeypatch.setattr(bpe, "PIECE_CHARACTERS", 100)
    assert len(list(safe_pieces(text, 100))) > 50
    assert tokenizer.encode(text) == whole


def test_a_batch_gives_the_same_ids_with_any_number_of_threads(tokenizer):
    texts = ["", "one", "二", "three 三\n" * 50, "\ud800x"]
    single = [tokenizer.encode(text) for text in texts]
    for threads in (1, 3):
        batch = tokenizer.encode_batch(texts, threads=threads)
        assert [ids.tolist() for ids in batch] == single
        assert all(ids.dtype == np.int32 for ids in batch)


def test_a_small_corpus_gives_a_smaller_vocabulary_and_says_so(tmp_path):
    small = train_tokenizer(["hello hello world world"], vocab_size=5000, out=tmp_path)
    assert 259 < small.vocab_size < 300
    assert len(small.encode("hello hello")) < 5
    assert {number for number in range(small.vocab_size) if small.id_bytes(number)} == set(range(small.vocab_size))


@pytest.mark.parametrize("texts", [[], [""], ["x"]])
def test_a_corpus_with_nothing_to_merge_still_encodes_every_byte(tmp_path, texts):
    bytewise = train_tokenizer(texts, vocab_size=1000, out=tmp_path)
    assert bytewise.vocab_size == 259
    assert bytewise.decode(bytewise.encode("任何 text\0")) == "任何 text\0"


def test_training_is_deterministic(tmp_path):
    texts = ["the cat sat on the mat 猫坐在垫子上 " * 5, "a cat 猫" * 3]
    files = []
    for name in ("first", "second"):
        train_tokenizer(iter(texts), vocab_size=400, out=tmp_path / name)
        files.append((tmp_path / name / "tokenizer.json").read_bytes())
    assert files[0] == files[1]


def test_bytes_per_token_counts_bytes_not_characters(tokenizer):
    assert tokenizer.bytes_per_token(["\x01", "\x02"]) == 1.0
    assert tokenizer.bytes_per_token(["红楼梦"]) >= 3.0
    assert tokenizer.bytes_per_token([]) == 0.0


def test_a_tokenizer_travels_to_another_process(tokenizer):
    assert pickle.loads(pickle.dumps(tokenizer)).encode("明白 it") == tokenizer.encode("明白 it")


def test_errors_name_the_file_and_the_rule(tokenizer, tmp_path):
    with pytest.raises(TokenizerError, match="vocab_size=100 cannot hold 256 bytes"):
        train_tokenizer(["x"], vocab_size=100, out=tmp_path)
    with pytest.raises(TokenizerError, match="does not exist"):
        Tokenizer.load(tmp_path)
    with pytest.raises(TokenizerError, match="outside this vocabulary"):
        tokenizer.decode([tokenizer.vocab_size])
    path = tmp_path / "tokenizer.json"
    spec = json.loads((tokenizer.folder / "tokenizer.json").read_text("utf-8"))
    _expect_refusal(path, spec | {"added_tokens": []}, "lacks the special tokens")
    _expect_refusal(path, spec | {"normalizer": {"type": "NFC"}}, "without a normaliser")
    _expect_refusal(path, spec | {"pre_tokenizer": None}, "does not cut text by one pattern")


def _expect_refusal(path: Path, spec: object, message: str) -> None:
    path.write_text(json.dumps(spec), "utf-8")
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(path.parent)
