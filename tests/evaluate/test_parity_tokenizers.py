"""Tokenizers of other makers in llama.cpp: each rule by which text is cut gives the ids there that it gives here."""

import json
import random
import unicodedata

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from dunwu.build.handover import GGUF_RULES
from dunwu.core.errors import TokenizerError
from dunwu.evaluate.parity import HARD_TEXTS
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import new_decoder
from dunwu.model.gguf import export_gguf, import_gguf
from dunwu.model.gguf.patterns import LLAMA3, NAMES, QWEN2, name_of, rules_named, rules_of
from dunwu.model.hub import save_model
from dunwu.tokenizer.bpe import train_tokenizer
from dunwu.tokenizer.load import load_tokenizer
from dunwu.tokenizer.pattern import RUN_CJK, RUN_SPACES

TEXTS = [*HARD_TEXTS, "Hello world 1234 don't we'll", "用Python写code。" * 3] * 3


BLIND_TO_MARKS = ("gpt-4o", "tekken")
"""llama.cpp writes these two rules without combining marks: text with combining marks (Thai, Hindi) gets other ids there."""


def make_folder(folder, tokenizer, *, bos=None):
    """A tiny model with this tokenizer."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|end|>", "tokenizer_class": "PreTrainedTokenizerFast"} | (
        {"bos_token": bos} if bos else {}
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    sizes = {
        "vocab_size": tokenizer.get_vocab_size() + 2, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 64,
    }  # fmt: skip
    save_model(new_decoder(DecoderConfig(architecture="llama", **sizes), seed=0), folder)
    return folder


def byte_level(rules, *, ignore_merges=False, normalizer=None, special=("<|end|>",)):
    made = tokenizers.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    cuts = [pre_tokenizers.Split(tokenizers.Regex(rule), behavior="isolated") for rule in rules]
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    if normalizer:
        made.normalizer = normalizer
    made.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=900,
            special_tokens=list(special),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return made


def ids_in_llama_cpp(path, texts):
    llama_cpp = pytest.importorskip("llama_cpp")
    llama = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    found = [llama.tokenize(text.encode(), add_bos=False, special=False) for text in texts]
    llama.close()
    return found


@pytest.mark.parametrize(("rules", "name"), NAMES.items(), ids=NAMES.values())
def test_each_rule_that_has_a_name_cuts_alike_in_llama_cpp(rules, name, tmp_path):
    cuts, ignore_merges = rules
    folder = make_folder(tmp_path, byte_level(cuts, ignore_merges=ignore_merges))
    assert name_of(json.loads((folder / "tokenizer.json").read_text())) == name
    export_gguf(folder, tmp_path / "x.gguf")
    ours = load_tokenizer(folder)
    theirs = ids_in_llama_cpp(tmp_path / "x.gguf", HARD_TEXTS)
    wrong = [text for text, ids in zip(HARD_TEXTS, theirs, strict=True) if ids != ours.encode(text)]
    if name in BLIND_TO_MARKS:
        assert all(any(unicodedata.category(character) == "Mn" for character in text) for text in wrong)
    else:
        assert wrong == []
    import_gguf(tmp_path / "x.gguf", tmp_path / "back")
    back = load_tokenizer(tmp_path / "back")
    assert all(back.encode(text) == ours.encode(text) for text in HARD_TEXTS)


@pytest.mark.parametrize(
    "characters",
    ["abcdefgh", "กขคงจเแโใ่้๊ัิี", "-=*#+.!", "가나다라마 ", " \n\t", "的了不一，。“”： ", "ab中国, .\n-='sS １2้"],
    ids=["letters", "thai", "symbols", "hangul", "blanks", "chinese", "mixed"],
)
def test_a_vocabulary_of_ours_gives_the_same_ids_in_llama_cpp_however_long_a_run_is(characters, tmp_path):
    pytest.importorskip("llama_cpp")
    draw = random.Random(0)
    bounded = (
        RUN_SPACES if characters.isspace() else RUN_CJK if "的" in characters else 1000
    )  # beyond these, see GGUF_RULE
    texts = ["".join(draw.choices(characters, k=length)) for length in (20, 100, 300, bounded) * 5]
    tokenizer = train_tokenizer(texts, vocab_size=700, out=tmp_path)
    sizes = {
        "vocab_size": tokenizer.vocab_size, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 64,
    }  # fmt: skip
    save_model(new_decoder(DecoderConfig(architecture="llama", **sizes), seed=0), tmp_path)
    export_gguf(tmp_path, tmp_path / "x.gguf", rules=GGUF_RULES)
    assert ids_in_llama_cpp(tmp_path / "x.gguf", texts) == [tokenizer.encode(text) for text in texts]


def test_gpt2s_own_form_is_known(tmp_path):
    spec = {"model": {"type": "BPE"}, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}}
    assert name_of(spec) == "gpt-2"
    digits = {"type": "Digits", "individual_digits": True}
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, {"type": "ByteLevel", "use_regex": True}]}
    assert name_of(spec) == "smollm"
    spec["pre_tokenizer"] = {"type": "Whitespace"}
    assert rules_of(spec["pre_tokenizer"]) == ("<Whitespace>",)
    assert name_of(spec) is None


def test_a_sentencepiece_vocabulary_merges_alike(tmp_path):
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    special = ["<unk>", "<s>", "</s>", "<|end|>", *(f"<0x{number:02X}>" for number in range(256))]
    words = [" ".join(text.split()).replace(" ", " ▁").split(" ") for text in TEXTS if "<" not in text]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False, limit_alphabet=300)
    made.train_from_iterator((word for row in words for word in row), trainer)
    spec = json.loads(made.to_str())
    spec["added_tokens"] = spec["added_tokens"][:4]  # bytes are tokens of the vocabulary
    made = tokenizers.Tokenizer.from_str(json.dumps(spec))
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    folder = make_folder(tmp_path, made, bos="<s>")
    export_gguf(folder, tmp_path / "x.gguf")
    ours = load_tokenizer(folder)
    assert tuple(ours.start_ids) == (1,)
    texts = [text for text in HARD_TEXTS if not text.startswith(" ")]
    theirs = ids_in_llama_cpp(tmp_path / "x.gguf", texts)
    wrong = [text for text, ids in zip(texts, theirs, strict=True) if ids != ours.encode(text)]
    assert wrong == []


def test_a_tokenizer_that_llama_cpp_cannot_apply_is_refused(tmp_path):
    folder = make_folder(tmp_path, byte_level((r"\w+|\W+",)))
    with pytest.raises(TokenizerError, match=r"none of the rules that llama\.cpp knows"):
        export_gguf(folder, tmp_path / "x.gguf")


def test_a_vocabulary_larger_than_the_model_is_refused(tmp_path):
    folder = make_folder(tmp_path, byte_level(next(iter(NAMES))[0]))
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["added_tokens"][0]["id"] = 5000
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(TokenizerError, match="the id 5000 and the model"):
        export_gguf(folder, tmp_path / "x.gguf")


def test_a_rule_with_the_other_way_of_merging_is_not_guessed():
    cut = {"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": False}
    spec = {"model": {"type": "BPE"}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut]}}
    assert name_of(spec) == "qwen2"
    assert name_of({**spec, "model": {"type": "BPE", "ignore_merges": True}}) is None
    assert rules_named("glm4") == ((LLAMA3,), False)
