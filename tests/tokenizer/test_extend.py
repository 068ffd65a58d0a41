"""New tokens on top of a finished vocabulary: everything old stays, three libraries agree, other kinds are refused."""

import functools
import gzip
import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from dunwu.core.errors import TokenizerError
from dunwu.tokenizer.bpe import Tokenizer, train_tokenizer
from dunwu.tokenizer.extend import extend_tokenizer, learn_merges, read_extension
from dunwu.tokenizer.load import load_tokenizer

ENGLISH = ["the cat sat on the mat and the dog sat on the log. " * 20, "never again, said the cat; never again! " * 20]
CHINESE = [
    "却说宝玉因见林黛玉又病了，心里放不下，饭也懒去吃。宝玉因问黛玉：你又怎么了？" * 20,
    "话说宝玉听了，忙笑道：好妹妹。" * 30,
]
GPT2 = Path(__file__).parents[3] / "shared" / "data" / "tokenizers" / "gpt2"


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Our own tokenizer learned from English, and the same extended with Chinese."""
    folder = tmp_path_factory.mktemp("ours")
    train_tokenizer(ENGLISH, vocab_size=320, out=folder / "base")
    extend_tokenizer(folder / "base", CHINESE, extend_by=60, out=folder / "more")
    return folder


@pytest.fixture(scope="module")
def qwen_like(tmp_path_factory):
    """As Qwen and Llama 3 store theirs: special tokens outside the model's vocabulary, behind it; merges as lists."""
    folder = tmp_path_factory.mktemp("qwen")
    trained = tokenizers.Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(tokenizers.Regex(r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"), "isolated")
    trained.normalizer = normalizers.NFC()
    trained.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    trained.train_from_iterator(ENGLISH, trainer)
    trained.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    trained.add_tokens(["<tool_call>"])
    trained.post_processor = processors.ByteLevel(trim_offsets=False)
    (folder / "base").mkdir()
    trained.save(str(folder / "base" / "tokenizer.json"))
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "chat_template": "x"}
    (folder / "base" / "tokenizer_config.json").write_text(json.dumps(config))
    extend_tokenizer(folder / "base", CHINESE, extend_by=60, out=folder / "more")
    return folder


@functools.cache
def library(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@functools.cache
def loaded(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


def spelled_out(ids, extension):
    """Ids with every new one replaced by the old ones that it stands for."""
    first = extension.first_id
    return [old for i in ids for old in (extension.pieces[i - first] if i >= first else (i,))]


TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from([*"宝玉黛却说因见 aacat。\n\0", "the", "<|im_end|>", "𝔘", "\u0301"]), max_size=30).map(
        "".join
    ),
)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_our_extended_ids_equal_those_of_the_tokenizers_library_and_round_trip(ours, text):
    mine, theirs = loaded(ours / "more"), library(ours / "more")
    if "<|" not in text:
        assert mine.encode(text) == theirs.encode(text).ids
    assert mine.decode(mine.encode(text)) == text


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_new_tokens_only_join_old_ones(ours, qwen_like, text):
    for folder in (ours, qwen_like):
        extension = read_extension(folder / "more")
        old, new = library(folder / "base").encode(text).ids, library(folder / "more").encode(text).ids
        assert spelled_out(new, extension) == old


def test_text_without_new_tokens_keeps_its_ids_and_the_new_language_gets_shorter(ours):
    base, more = Tokenizer.load(ours / "base"), Tokenizer.load(ours / "more")
    assert more.vocab_size == base.vocab_size + 60
    assert more.encode(ENGLISH[0]) == base.encode(ENGLISH[0])
    assert more.bytes_per_token(CHINESE) > 3 * base.bytes_per_token(CHINESE)


def test_new_ids_follow_the_special_tokens_which_stay_where_they_were(qwen_like):
    base, more = library(qwen_like / "base"), library(qwen_like / "more")
    for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>"):
        assert more.token_to_id(name) == base.token_to_id(name)
    assert read_extension(qwen_like / "more").first_id == base.token_to_id("<tool_call>") + 1
    text = "<|im_start|>却说宝玉因见<|im_end|><tool_call>the cat"
    assert more.decode(more.encode(text).ids, skip_special_tokens=False) == text
    assert set(base.encode(text).ids) >= {base.token_to_id("<|im_start|>"), base.token_to_id("<tool_call>")}


@pytest.mark.parametrize("which", ["ours", "qwen_like"])
def test_transformers_loads_the_result_with_the_same_ids(which, request):
    transformers = pytest.importorskip("transformers")
    folder = request.getfixturevalue(which) / "more"
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    text = "却说宝玉因见林黛玉 the cat sat<|im_end|>\nélan"
    assert theirs(text, add_special_tokens=False)["input_ids"] == library(folder).encode(text).ids
    assert len(theirs) == read_extension(folder).end
    assert theirs.decode(theirs(text, add_special_tokens=False)["input_ids"]) == text


def test_learned_merges_are_those_of_the_tokenizers_library(tmp_path):
    """From bytes alone, continuing a vocabulary is learning one; ties aside, so on counts that have none."""
    words = {"aaaa": 17, "abab": 31, "bcab": 5, "ccaab": 11, "abcabc": 64}
    base = train_tokenizer(["x"], vocab_size=259, out=tmp_path)
    names = {i: base.id_bytes(i).decode("latin-1") for i in range(3, 259)}
    ids = [base.encode(word) for word in words]
    merges = learn_merges(ids, list(words.values()), names, number=6, first_id=259)
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    text = " ".join(word for word, count in words.items() for _ in range(count))
    trained.train_from_iterator([text], trainers.BpeTrainer(vocab_size=3 + 6, show_progress=False))
    theirs = json.loads(trained.to_str())["model"]["merges"]
    assert [merge.name for merge in merges] == ["".join(pair) for pair in theirs]


def test_overlapping_pairs_are_counted_as_they_can_be_merged():
    merges = learn_merges([[0] * 5, [1, 1]], [2, 3], {0: "a", 1: "b"}, number=9, first_id=2)
    assert [(m.name, m.left, m.right) for m in merges] == [("aa", 0, 0), ("bb", 1, 1), ("aaa", 2, 0), ("aaaaa", 2, 4)]


def test_the_same_text_gives_the_same_tokens_and_a_small_one_fewer(ours, tmp_path):
    again = extend_tokenizer(ours / "base", CHINESE, extend_by=60, out=tmp_path / "again")
    assert again == read_extension(ours / "more")
    assert (tmp_path / "again" / "tokenizer.json").read_bytes() == (ours / "more" / "tokenizer.json").read_bytes()
    few = extend_tokenizer(ours / "base", ["十" * 3], extend_by=60, out=tmp_path / "few")
    assert len(few.pieces) == 2
    assert len(extend_tokenizer(ours / "base", [], extend_by=60, out=tmp_path / "none").pieces) == 0


def test_an_extended_vocabulary_can_be_extended_again(ours, tmp_path):
    first = read_extension(ours / "more")
    second = extend_tokenizer(ours / "more", ["Größe über Straße " * 50], extend_by=20, out=tmp_path)
    assert second.first_id == first.end
    text = "Größe 宝玉 the cat"
    assert Tokenizer.load(tmp_path).encode(text) == library(tmp_path).encode(text).ids
    assert spelled_out(Tokenizer.load(tmp_path).encode(text), second) == Tokenizer.load(ours / "more").encode(text)


def test_control_tokens_that_only_the_configuration_knows_keep_their_ids(qwen_like, tmp_path):
    """As in files of earlier years: the ids behind the vocabulary are taken, and tokenizer.json does not say so."""
    transformers = pytest.importorskip("transformers")
    spec = json.loads((qwen_like / "base" / "tokenizer.json").read_text())
    config = json.loads((qwen_like / "base" / "tokenizer_config.json").read_text())
    late = max(token["id"] for token in spec["added_tokens"]) + 1
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config["added_tokens_decoder"] = {
        str(late): {"content": "<|late|>", **flags},
        str(late + 5): {"content": "<|im_end|>", **flags},  # elsewhere in tokenizer.json, which counts
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    extension = extend_tokenizer(tmp_path, CHINESE, extend_by=20, out=tmp_path / "more")
    assert extension.first_id == late + 1
    kept = json.loads((tmp_path / "more" / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert list(kept) == [str(late)]
    for load in (load_tokenizer, transformers.AutoTokenizer.from_pretrained):
        assert load(tmp_path / "more").decode([late], False) == "<|late|>"
        ids = load(tmp_path / "more").encode("却说宝玉因见")
        assert max(ids) >= extension.first_id


@pytest.mark.skipif(not GPT2.is_dir(), reason="needs ../shared/data/tokenizers/gpt2")
def test_gpt2_is_extended(tmp_path):
    vocab = json.loads(gzip.decompress((GPT2 / "gpt2-encoder.json.gz").read_bytes()))
    lines = gzip.decompress((GPT2 / "gpt2-vocab.bpe.gz").read_bytes()).decode().splitlines()[1:]
    gpt2 = tokenizers.Tokenizer(models.BPE(vocab, [tuple(line.split()) for line in lines]))
    gpt2.pre_tokenizer, gpt2.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    gpt2.add_special_tokens(["<|endoftext|>"])
    gpt2.save(str(tmp_path / "tokenizer.json"))
    extension = extend_tokenizer(tmp_path, CHINESE, extend_by=50, out=tmp_path / "more")
    assert extension.first_id == 50257
    text = "却说宝玉因见林黛玉 The cat sat, it's 42.\n\n"
    new, old = library(tmp_path / "more").encode(text).ids, gpt2.encode(text).ids
    assert spelled_out(new, extension) == old
    assert len(new) < len(old)
    assert library(tmp_path / "more").decode(new) == text


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (models.Unigram([("a", 0.0)]), "Unigram"),
        (models.WordPiece({"a": 0}), "WordPiece"),
        (models.BPE({"a": 0}, [], byte_fallback=True), "does not work on bytes"),
        (models.BPE({"a": 0}, []), "does not work on bytes"),
    ],
)
def test_other_kinds_are_refused_by_name(tmp_path, model, named):
    tokenizers.Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match=f"{named}.*extend_by"):
        extend_tokenizer(tmp_path, CHINESE, extend_by=5, out=tmp_path / "out")
