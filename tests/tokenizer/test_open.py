"""Tokenizers of open models: the ids and texts of transformers, for every kind of vocabulary."""

import gzip
import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from dunwu.core.errors import TokenizerError
from dunwu.tokenizer.bpe import Tokenizer
from dunwu.tokenizer.load import load_tokenizer
from dunwu.tokenizer.open import OpenTokenizer
from dunwu.tokenizer.stream import StreamDecoder

from . import foreign, templates

PUBLIC = Path(__file__).parents[3] / "shared" / "data" / "tokenizers"
CROWDED = st.text(st.sampled_from(" \t\n\r\u3000\xa0aé中1٣.'#🙂\u200d\u0301▁Ġ<|>x"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {name: build(tmp_path_factory.mktemp(name)) for name, build in foreign.KINDS.items()}


@pytest.fixture(scope="module")
def pairs(folders):
    return {name: (load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)) for name, folder in folders.items()}


@pytest.fixture(params=foreign.KINDS)
def pair(request, pairs):
    return pairs[request.param]


def without_names(text: str) -> str:
    """Names of special tokens are the one thing that we read otherwise."""
    return text.replace("<unk>", "unk").replace("<pad>", "pad")


def test_ids_and_texts_are_those_of_transformers(pair):
    ours, theirs = pair
    for text in map(without_names, foreign.HARD):
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text) == ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert [*ours.start_ids, *ours.encode("a dog")] == [
        number for number in theirs("a dog")["input_ids"] if number != theirs.sep_token_id
    ]


@settings(max_examples=60, deadline=None)
@given(text=st.one_of(st.text(), CROWDED), kind=st.sampled_from(list(foreign.KINDS)))
def test_any_text_gives_the_ids_of_transformers(pairs, text, kind):
    ours, theirs = pairs[kind]
    assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]


@settings(max_examples=120, deadline=None)
@given(
    numbers=st.lists(st.integers(0, 10_000), max_size=30),
    text=st.one_of(st.text(max_size=20), CROWDED),
    kind=st.sampled_from(list(foreign.KINDS)),
)
def test_streamed_text_is_the_decoded_text(pairs, numbers, text, kind):
    ours, _ = pairs[kind]
    ids = [*ours.encode(text), *(number % ours.vocab_size for number in numbers), *ours.encode(text)]
    stream = StreamDecoder(ours)
    assert "".join(map(stream.push, ids)) + stream.finish() == ours.decode(ids)


@pytest.mark.parametrize("kind", ["qwen", "llama2", "gemma"])
def test_a_stream_shows_whole_characters_and_does_not_wait_for_the_end(pairs, kind):
    ours, _ = pairs[kind]
    stream = StreamDecoder(ours)
    pieces = [stream.push(number) for number in ours.encode("the dog 𠮷🧬 doesn't mind")]
    assert "".join(pieces) == "the dog 𠮷🧬 doesn't mind"
    assert all("\ufffd" not in piece for piece in pieces)
    assert len([piece for piece in pieces if piece]) > 3


def test_names_of_control_tokens_are_text_alone_and_side_by_side(pair):
    ours, _ = pair
    control = set(ours.control_ids.values()) - {ours.control_ids.get(name) for name in ("<unk>", "[UNK]")}
    for text in (*ours.control_ids, "".join(ours.control_ids), " ".join(ours.control_ids) + "x"):
        assert not set(ours.encode(text)) & control
        if ours.spells_bytes:
            assert ours.decode(ours.encode(text)) == text


def test_added_tokens_that_are_text_stay_what_they_are(pairs):
    ours, theirs = pairs["gpt_neox"]
    text = "a" + " " * 7 + "b  c"
    assert ours.encode(text) == theirs(text)["input_ids"]
    assert len(ours.encode(" " * 24)) == 1
    assert pairs["gemma"][0].encode("x\n\ny") == pairs["gemma"][1]("x\n\ny", add_special_tokens=False)["input_ids"]


def test_what_begins_and_ends(pairs):
    def names(ids, tokenizer):
        return [tokenizer.decode([number], skip_special=False) for number in ids]

    wanted = {
        "gpt2": ("<|endoftext|>", [], ["<|endoftext|>"]),
        "llama3": ("<|end_of_text|>", ["<|begin_of_text|>"], ["<|end_of_text|>", "<|eot_id|>"]),
        "qwen": ("<|endoftext|>", [], ["<|endoftext|>", "<|im_end|>"]),
        "deepseek": ("<｜end▁of▁sentence｜>", ["<｜begin▁of▁sentence｜>"], ["<｜end▁of▁sentence｜>"]),
        "glm4": ("<|endoftext|>", [], ["<|endoftext|>", "<|user|>", "<|observation|>"]),
        "gpt_oss": ("<|endoftext|>", [], ["<|endoftext|>", "<|return|>"]),
        "gemma": ("<eos>", ["<bos>"], ["<eos>"]),
        "bert": ("[SEP]", ["[CLS]"], ["[SEP]"]),
    }
    for kind, (end, start, stops) in wanted.items():
        ours = pairs[kind][0]
        assert names([ours.eos_id], ours) == [end], kind
        assert names(ours.start_ids, ours) == start, kind
        assert sorted(names(ours.stop_ids, ours)) == sorted(stops), kind


def test_an_end_of_turn_that_the_template_writes_stops_too(tmp_path):
    gemma = load_tokenizer(foreign.gemma(tmp_path, chat_template=templates.GEMMA3))
    assert set(gemma.stop_ids) == {gemma.special_ids["<eos>"], gemma.special_ids["<end_of_turn>"]}


def test_bytes_of_ids_spell_the_text(pairs):
    for kind in ("gpt2", "qwen", "llama3", "gemma"):
        ours = pairs[kind][0]
        for text in ("It's  two 顿悟\n\n🧬 é", "x\ty"):
            assert b"".join(map(ours.id_bytes, ours.encode(text))).decode() == text
    llama2 = pairs["llama2"][0]
    assert b"".join(map(llama2.id_bytes, llama2.encode("a 🧬"))).decode() == " a 🧬"  # a space opens each text
    with pytest.raises(TokenizerError, match="outside this vocabulary"):
        llama2.id_bytes(llama2.vocab_size)
    with pytest.raises(TokenizerError, match="outside this vocabulary"):
        llama2.decode([-1])


def test_a_batch_gives_the_same_ids_with_any_number_of_threads(pair):
    ours, _ = pair
    single = [ours.encode(text) for text in foreign.HARD]
    for threads in (1, 2):
        assert [ids.tolist() for ids in ours.encode_batch(foreign.HARD, threads=threads)] == single
    assert ours.bytes_per_token(["红楼梦"]) == 9 / len(ours.encode("红楼梦"))
    assert pickle.loads(pickle.dumps(ours)).encode("a 明白") == ours.encode("a 明白")
    assert isinstance(ours.encode("\ud800x"), list)


@pytest.mark.parametrize("kind", ["qwen", "llama2", "mistral", "gemma"])
def test_a_stream_that_follows_on_a_text_keeps_the_space_between(pairs, kind):
    ours, _ = pairs[kind]
    ids = ours.encode("the quick dog doesn't  mind")
    for place in range(1, len(ids)):
        stream = StreamDecoder(ours, ids[:place])
        after = "".join(map(stream.push, ids[place:])) + stream.finish()
        assert ours.decode(ids[:place]) + after == ours.decode(ids)


@pytest.mark.parametrize("kind", ["llama2", "mistral"])
def test_a_stream_that_follows_on_a_control_token_begins_without_a_space(pairs, kind):
    ours, _ = pairs[kind]
    stream = StreamDecoder(ours, [*ours.encode("dog"), ours.eos_id])
    assert "".join(map(stream.push, ours.encode("dog"))) + stream.finish() == "dog"


@pytest.mark.parametrize("kind", ["llama2", "qwen", "bert"])
def test_a_long_text_gives_the_ids_of_transformers_and_comes_back(pairs, kind):
    ours, theirs = pairs[kind]
    text = "the quick dog doesn't mind. " * 5000
    ids = ours.encode(text)
    assert ids == theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.encode_spans(text).ids == ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def test_gaps_in_the_ids_are_known(folders, tmp_path):
    spec = json.loads((folders["gpt2"] / "tokenizer.json").read_text("utf-8"))
    last = max(spec["model"]["vocab"], key=spec["model"]["vocab"].get)
    spec["model"]["vocab"][last] += 10
    spec["added_tokens"][0]["id"] = 700
    spec["model"]["vocab"]["<|endoftext|>"] = 700
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec), "utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}', "utf-8")
    ours = load_tokenizer(tmp_path)
    assert (ours.vocab_size, ours.eos_id) == (701, 700)
    assert len(ours.unused_ids) == 701 - len(spec["model"]["vocab"])
    assert ours.decode([ours.unused_ids[0], *ours.encode("dog")]) == "dog"
    stream = StreamDecoder(ours)
    assert stream.push(ours.unused_ids[0]) + stream.finish() == ""
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert ours.encode("the quick dog") == theirs("the quick dog")["input_ids"]


def test_our_own_file_is_read_by_our_own_reader_and_gives_the_same_ids(tokenizer):
    ours = load_tokenizer(tokenizer.folder)
    assert isinstance(ours, Tokenizer)
    read_as_open = OpenTokenizer.load(tokenizer.folder)
    for text in foreign.HARD:
        assert ours.encode(text) == read_as_open.encode(text)
    assert (read_as_open.eos_id, set(read_as_open.stop_ids)) == (ours.eos_id, set(ours.stop_ids))


@pytest.mark.skipif(not PUBLIC.is_dir(), reason="the published tokenizers (../shared/data/tokenizers) are not here")
@pytest.mark.parametrize("kind", ["gpt_neox", "gpt2"])
def test_published_vocabularies(tmp_path, kind):
    if kind == "gpt_neox":
        text = gzip.decompress((PUBLIC / "gpt_neox_20b" / "20B_tokenizer.json.gz").read_bytes()).decode()
        (tmp_path / "tokenizer.json").write_text(text, "utf-8")
    else:
        vocab = json.loads(gzip.decompress((PUBLIC / "gpt2" / "gpt2-encoder.json.gz").read_bytes()))
        merges = gzip.decompress((PUBLIC / "gpt2" / "gpt2-vocab.bpe.gz").read_bytes()).decode().split("\n")[1:-1]
        spec = json.loads(foreign.byte_level(None).to_str())
        spec["model"] |= {"vocab": vocab, "merges": merges}
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        spec["added_tokens"] = [{"id": 50256, "content": "<|endoftext|>", **flags}]
        (tmp_path / "tokenizer.json").write_text(json.dumps(spec), "utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    ours, theirs = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for hard in foreign.HARD:
        assert ours.encode(hard) == theirs(hard)["input_ids"]
    if kind == "gpt2":
        assert ours.encode("Hello world") == [15496, 995]  # as everybody knows them
    assert ours.decode(ours.encode("<|endoftext|>")) == "<|endoftext|>"
    assert ours.eos_id not in ours.encode("<|endoftext|>")


def test_errors_say_what_to_do(folders, tmp_path):
    def refused(folder: Path, message: str) -> None:
        with pytest.raises(TokenizerError, match=message):
            load_tokenizer(folder)

    refused(tmp_path / "nowhere", "does not exist; give the folder")
    refused(tmp_path, "tokenizer.json does not exist; give the folder")
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a")
    refused(tmp_path, "only tokenizer.model, which dunwu does not read; make one with transformers")
    (tmp_path / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["x.Y", null]}}', "utf-8")
    refused(tmp_path, "run the model's own code")
    text = (folders["qwen"] / "tokenizer.json").read_text("utf-8")
    path = tmp_path / "tokenizer.json"
    path.write_text(text[: len(text) // 2], "utf-8")
    refused(tmp_path, "is not valid JSON")
    path.write_text("[]", "utf-8")
    refused(tmp_path, "holds a list where an object is due")
    path.write_text('{"model": {"type": "Nonsense"}}', "utf-8")
    refused(tmp_path, "cannot be read by tokenizers")
    path.write_text('{"added_tokens": 3}', "utf-8")
    refused(tmp_path, "has no model")
    path.write_text(text, "utf-8")
    assert load_tokenizer(tmp_path).vocab_size > 500  # remote code beside a tokenizer.json is left alone
    (tmp_path / "config.json").write_text('{"eos_token_id": [543, 99999]}', "utf-8")
    refused(tmp_path, "says that id 99999 ends a text")
    (tmp_path / "config.json").unlink()
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    refused(tmp_path, "is not UTF-8 text")
    (tmp_path / "chat_template.jinja").unlink()
    spec = json.loads(text)
    path.write_text(json.dumps(spec | {"added_tokens": []}), "utf-8")
    (tmp_path / "tokenizer_config.json").write_text("{}", "utf-8")
    refused(tmp_path, "name no end-of-text token")
