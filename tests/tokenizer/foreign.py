"""Small tokenizers of the kinds that open models have, trained here, saved so that transformers loads them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "The quick brown fox jumps over the lazy dog. It's 1984, isn't it?\n\nThe dog doesn't mind.\n" * 3,
    "def add(a, b):\n    return a + b\n\n\nif __name__ == '__main__':\n        print(add(1, 23))\n" * 3,
    "顿悟，是忽然明白的意思。他说：“我明白了！”红楼梦第3回。\n红楼梦里的人都明白了。\n" * 3,
    "user system assistant model think answer hello there friend <think> [INST] | > < im_end eot_id end\n" * 3,
    "Привет, мир! Ça va très bien. こんにちは世界。 🙂🙃👩‍👩‍👧 naïve café\n" * 3,
]
HARD = [
    "",
    " ",
    "  two  spaces  ",
    "\n\n\t x\r\ny",
    "It's 1984! 12345 I'LL",
    "顿悟，明白了。𠮷🧬🙂",
    "é e\u0301 ﬁ ① Å",
    "a\u200db\u0000c\ufeff",
    "▁under▁score ▁",
    "    return x\n        y",
    "Ġword Ċ",
    "<0x0A> <unk> <pad>",
    "ठीक है ไทย العربية",
    "x" * 300,
    " lead",
    "tail \n",
]
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def byte_level(pattern: str | None, *, nfc: bool = False, ignore_merges: bool = False) -> tokenizers.Tokenizer:
    trained = tokenizers.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if nfc:
        trained.normalizer = normalizers.NFC()
    if pattern is None:
        trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    else:
        cut = pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated")
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        trained.pre_tokenizer = pre_tokenizers.Sequence([cut, to_bytes])
    trained.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, show_progress=False, initial_alphabet=alphabet)
    trained.train_from_iterator(TEXTS, trainer=trainer)
    return trained


def byte_fallback(*, metaspace: str | None, prepend: bool, specials: Sequence[str]) -> tokenizers.Tokenizer:
    """As Llama 2 (normaliser: prepend and replace), Mistral (metaspace, first) and Gemma (replace only)."""
    trained = tokenizers.Tokenizer(models.BPE(unk_token=specials[0], byte_fallback=True, fuse_unk=True))
    if metaspace is None:
        steps: list[Any] = [normalizers.Replace(" ", "▁")]
        trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *steps] if prepend else steps)
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=metaspace or "never")
    pieces = [*specials, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, show_progress=False, special_tokens=pieces, limit_alphabet=150)
    trained.train_from_iterator(TEXTS, trainer=trainer)
    spec = json.loads(trained.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in specials]
    if metaspace is None:
        spec["pre_tokenizer"] = None
    trained = tokenizers.Tokenizer.from_str(json.dumps(spec))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    trained.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prepend or metaspace else steps)
    return trained


def unigram(specials: Sequence[str]) -> tokenizers.Tokenizer:
    trained = tokenizers.Tokenizer(models.Unigram())
    trained.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")])
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trained.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=400, show_progress=False, special_tokens=list(specials), unk_token=specials[0]
    )
    trained.train_from_iterator(TEXTS, trainer=trainer)
    return trained


def word_piece() -> tokenizers.Tokenizer:
    trained = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer = normalizers.BertNormalizer(lowercase=True)
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trained.decoder = decoders.WordPiece(prefix="##")
    names = ["[UNK]", "[PAD]", "[CLS]", "[SEP]"]
    trained.train_from_iterator(
        TEXTS, trainer=trainers.WordPieceTrainer(vocab_size=400, show_progress=False, special_tokens=names)
    )
    return trained


def bos_before(trained: tokenizers.Tokenizer, name: str) -> None:
    number = trained.token_to_id(name)
    trained.post_processor = processors.TemplateProcessing(
        single=f"{name} $A", pair=f"{name} $A {name} $B", special_tokens=[(name, number)]
    )


def save(
    trained: tokenizers.Tokenizer,
    folder: Path,
    *,
    specials: Sequence[str] = (),
    markup: Sequence[str | AddedToken] = (),
    bos: str | None = None,
    generation: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    trained.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in specials])
    trained.add_tokens(
        [AddedToken(name, special=False, normalized=False) if isinstance(name, str) else name for name in markup]
    )
    if bos is not None:
        bos_before(trained, bos)
        config["bos_token"] = bos
    folder.mkdir(parents=True, exist_ok=True)
    trained.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation), "utf-8")
    return folder


def gpt2(folder: Path) -> Path:
    return save(byte_level(None), folder, specials=["<|endoftext|>"], eos_token="<|endoftext|>")


def gpt_neox(folder: Path) -> Path:
    """Runs of spaces as added tokens that are not special."""
    runs = [AddedToken(" " * count, special=False, normalized=True) for count in range(24, 1, -1)]
    return save(
        byte_level(None, nfc=True), folder, specials=["<|endoftext|>", "<|padding|>"], markup=runs,
        eos_token="<|endoftext|>",
    )  # fmt: skip


def llama3(folder: Path, **config: Any) -> Path:
    names = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eom_id|>",
        "<|eot_id|>",
    ]
    return save(
        byte_level(LLAMA3, ignore_merges=True), folder, specials=[*names, "<|python_tag|>"], bos="<|begin_of_text|>",
        eos_token="<|eot_id|>", **config,
    )  # fmt: skip


def qwen(folder: Path, **config: Any) -> Path:
    markup = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]
    return save(
        byte_level(QWEN, nfc=True), folder, specials=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], markup=markup,
        eos_token="<|im_end|>", pad_token="<|endoftext|>", **config,
    )  # fmt: skip


def deepseek(folder: Path, **config: Any) -> Path:
    """Turns open with added tokens that are not called special."""
    names = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"]
    markup = ["<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"]
    return save(
        byte_level(QWEN), folder, specials=names, markup=markup, bos=names[0], eos_token=names[1], **config,
    )  # fmt: skip


def glm4(folder: Path, **config: Any) -> Path:
    names = ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    trained = byte_level(LLAMA3)
    trained.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    stops = [trained.token_to_id(name) for name in ("<|endoftext|>", "<|user|>", "<|observation|>")]
    return save(trained, folder, eos_token="<|endoftext|>", generation={"eos_token_id": stops}, **config)


def gpt_oss(folder: Path, **config: Any) -> Path:
    names = ["<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>", "<|start|>", "<|end|>"]
    return save(
        byte_level(LLAMA3), folder, specials=[*names, "<|message|>", "<|call|>"], eos_token="<|return|>",
        bos_token="<|startoftext|>", **config,
    )  # fmt: skip


def llama2(folder: Path, **config: Any) -> Path:
    trained = byte_fallback(metaspace=None, prepend=True, specials=["<unk>", "<s>", "</s>"])
    return save(trained, folder, bos="<s>", eos_token="</s>", unk_token="<unk>", **config)


def mistral(folder: Path, **config: Any) -> Path:
    names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
    trained = byte_fallback(metaspace="first", prepend=False, specials=names)
    return save(trained, folder, bos="<s>", eos_token="</s>", unk_token="<unk>", **config)


def phi3(folder: Path, **config: Any) -> Path:
    """Control tokens that swallow the white space after them."""
    trained = byte_fallback(metaspace=None, prepend=True, specials=["<unk>", "<s>", "</s>"])
    names = ["<|endoftext|>", "<|assistant|>", "<|user|>", "<|system|>", "<|end|>"]
    trained.add_special_tokens([AddedToken(name, special=True, normalized=False, rstrip=True) for name in names])
    return save(trained, folder, bos_token="<s>", eos_token="<|endoftext|>", unk_token="<unk>", **config)


def gemma(folder: Path, **config: Any) -> Path:
    names = ["<unk>", "<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    trained = byte_fallback(metaspace=None, prepend=False, specials=names)
    runs = ["\n\n", "\n\n\n", "▁▁", "▁▁▁", "<table>"]
    return save(
        trained, folder, markup=runs, bos="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>",
        add_bos_token=True, add_eos_token=False, **config,
    )  # fmt: skip


def t5(folder: Path) -> Path:
    trained = unigram(["<unk>", "<s>", "</s>", "<mask>"])
    return save(trained, folder, bos="<s>", eos_token="</s>", unk_token="<unk>")


def bert(folder: Path) -> Path:
    trained = word_piece()
    bos_before(trained, "[CLS]")
    return save(trained, folder, sep_token="[SEP]", cls_token="[CLS]", unk_token="[UNK]", eos_token="[SEP]")


KINDS = {
    function.__name__: function
    for function in (
        gpt2, gpt_neox, llama3, qwen, deepseek, glm4, gpt_oss, llama2, mistral, phi3, gemma, t5, bert,
    )
}  # fmt: skip
