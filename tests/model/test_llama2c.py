"""llama2.c's files against its own algorithms, written here a second time as its C code has them."""

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dunwu.core.errors import ModelError, TokenizerError
from dunwu.model.hub import load_model
from dunwu.model.llama2c import (
    Header,
    Piece,
    convert_checkpoint,
    convert_tokenizer,
    read_header,
    read_pieces,
)

DATA = Path(__file__).parents[3] / "shared" / "data"
STORIES = DATA / "models" / "stories260K_llama2c"
needs_data = pytest.mark.skipif(not STORIES.is_dir(), reason=f"{STORIES} is not on this machine")
TINY = Header(dim=16, hidden_dim=24, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=300, seq_len=20)


def write_checkpoint(path: Path, header: Header, seed: int = 0) -> dict[str, np.ndarray]:
    """A random checkpoint in llama2.c's order."""
    generator = np.random.default_rng(seed)
    arrays = {
        name: generator.normal(0.0, 0.3, shape).astype(np.float32) + ("norm" in name)
        for name, shape in header.tensors().items()
    }
    path.write_bytes(struct.pack("<7i", *header) + b"".join(array.tobytes() for array in arrays.values()))
    return arrays


def write_tokenizer(path: Path, pieces: list[Piece]) -> None:
    longest = max(len(piece.text) for piece in pieces)
    body = b"".join(struct.pack("<fi", piece.score, len(piece.text)) + piece.text for piece in pieces)
    path.write_bytes(struct.pack("<i", longest) + body)


def c_encode(pieces: list[Piece], text: str) -> list[int]:
    """`encode` of run.c without BOS and EOS: characters or their bytes, then the best-scored pair, the first of equals."""
    ids = {piece.text: number for number, piece in reversed(list(enumerate(pieces)))}
    tokens = [ids[b" "]] if text else []
    for character in text:
        raw = character.encode()
        tokens += [ids[raw]] if raw in ids else [byte + 3 for byte in raw]
    while True:
        best, place = -1e10, -1
        for at in range(len(tokens) - 1):
            union = pieces[tokens[at]].text + pieces[tokens[at + 1]].text
            if union in ids and pieces[ids[union]].score > best:
                best, place = pieces[ids[union]].score, at
        if place < 0:
            return tokens
        union = pieces[tokens[place]].text + pieces[tokens[place + 1]].text
        tokens[place : place + 2] = [ids[union]]


def c_logits(header: Header, arrays: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """`forward` of run.c for each token in turn, with its neighbouring channels turned together; float64."""
    size, group = header.dim // header.n_heads, header.n_heads // header.n_kv_heads
    keys: list[list[np.ndarray]] = [[] for _ in range(header.n_layers)]
    values: list[list[np.ndarray]] = [[] for _ in range(header.n_layers)]
    logits = []
    for position, number in enumerate(ids):
        x = arrays["token_emb"][number].astype(np.float64)
        for layer in range(header.n_layers):
            h = rms(x, arrays["att_norm"][layer])
            q = turn(arrays["wq"][layer] @ h, position, size)
            keys[layer].append(turn(arrays["wk"][layer] @ h, position, size))
            values[layer].append(arrays["wv"][layer] @ h)
            mixed = []
            for head in range(header.n_heads):
                own = slice(head * size, (head + 1) * size)
                shared = slice(head // group * size, (head // group + 1) * size)
                scores = np.array([q[own] @ key[shared] / math.sqrt(size) for key in keys[layer]])
                weights = np.exp(scores - scores.max())
                weights /= weights.sum()
                mixed.append(sum(w * value[shared] for w, value in zip(weights, values[layer], strict=True)))
            x = x + arrays["wo"][layer] @ np.concatenate(mixed)
            h = rms(x, arrays["ffn_norm"][layer])
            gate = arrays["w1"][layer] @ h
            x = x + arrays["w2"][layer] @ (gate / (1.0 + np.exp(-gate)) * (arrays["w3"][layer] @ h))
        logits.append(arrays["token_emb" if header.tied else "head"] @ rms(x, arrays["final_norm"]))
    return np.array(logits)


def rms(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.mean(x * x) + 1e-5) * weight


def turn(x: np.ndarray, position: int, size: int) -> np.ndarray:
    turned = x.copy()
    for i in range(0, len(x), 2):
        angle = position / 10000.0 ** ((i % size) / size)
        turned[i] = x[i] * math.cos(angle) - x[i + 1] * math.sin(angle)
        turned[i + 1] = x[i] * math.sin(angle) + x[i + 1] * math.cos(angle)
    return turned


@pytest.mark.parametrize("vocab_size", [300, -300], ids=["tied", "untied"])
def test_logits_are_those_of_the_c_code(vocab_size: int, tmp_path: Path) -> None:
    header = TINY._replace(vocab_size=vocab_size)
    arrays = write_checkpoint(tmp_path / "model.bin", header)
    config = convert_checkpoint(tmp_path / "model.bin", tmp_path)
    assert config.tie_word_embeddings is (vocab_size > 0)
    model = load_model(tmp_path)
    assert model.config == config
    ids = [1, 299, 7, 7, 30, 2, 150]
    with torch.no_grad():
        ours = model.logits(model(torch.tensor([ids])))[0].numpy()
    np.testing.assert_allclose(ours, c_logits(header, arrays, ids), atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:-4], "asks for .* cut short"),
        (lambda raw: raw + b"\0", "asks for .* cut short"),
        (lambda raw: raw[:20], "a llama2.c header takes 28"),
        (lambda raw: b"24ka" + raw[4:], "later formats"),
        (lambda raw: struct.pack("<i", -5) + raw[4:], "is no llama2.c checkpoint"),
        (lambda raw: raw[:12] + struct.pack("<i", 3) + raw[16:], "is no llama2.c checkpoint"),
        (lambda raw: struct.pack("<7i", *[2**31 - 1] * 5, 2**31 - 1, 2**31 - 1) + raw[28:], "no llama2.c|asks for"),
        (lambda raw: raw[:40] + struct.pack("<f", math.nan) + raw[44:], "embed_tokens.weight .* NaN or infinite"),
    ],
)
def test_damaged_checkpoints_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    write_checkpoint(path, TINY)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ModelError, match=message):
        convert_checkpoint(path, tmp_path)


def small_vocabulary() -> list[Piece]:
    """Every kind of piece: special ones, bytes, merges that share their parts, and characters."""
    merges = [" a", "ab", "aa", " aa", "aaa", "aab", "ba", "aba", "é", "ée", "  ", "   ", "\n\n", " ab", "bab", "aaaa"]
    characters = [" ", "a", "b", "e", "\n", "<", "0", "x", "s", ">"]
    texts = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256)), *merges, *characters]
    return [Piece(-float(max(number - 259, 0)), text.encode()) for number, text in enumerate(texts)]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Piece], tokenizers.Tokenizer]:
    folder = tmp_path_factory.mktemp("tokenizer")
    pieces = small_vocabulary()
    write_tokenizer(folder / "tok.bin", pieces)
    write_checkpoint(folder / "model.bin", TINY._replace(vocab_size=len(pieces)))
    config = convert_checkpoint(folder / "model.bin", folder)
    convert_tokenizer(folder / "tok.bin", folder, config)
    return pieces, tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@settings(max_examples=400, deadline=None)
@given(text=st.one_of(st.text(alphabet="ab é\n<0xs>", max_size=30), st.text(max_size=12)))
def test_any_text_has_the_ids_of_the_c_code(converted: tuple[list[Piece], tokenizers.Tokenizer], text: str) -> None:
    pieces, ours = converted
    if "▁" in text or any(name in text for name in ("<s>", "</s>", "<unk>")):
        return
    assert ours.encode(text, add_special_tokens=False).ids == c_encode(pieces, text)
    assert ours.decode(ours.encode(text).ids, skip_special_tokens=True) == text


def test_the_mark_for_a_space_is_the_one_text_that_differs(
    converted: tuple[list[Piece], tokenizers.Tokenizer],
) -> None:
    pieces, ours = converted
    assert ours.encode("a▁b", add_special_tokens=False).ids == c_encode(pieces, "a b") != c_encode(pieces, "a▁b")


@pytest.mark.parametrize("cut", [1, 3, 9, -1])
def test_damaged_tokenizers_are_refused(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "tok.bin"
    write_tokenizer(path, small_vocabulary())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(TokenizerError, match=r"llama2\.c tokenizer"):
        read_pieces(path)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tok.bin", small_vocabulary())
    write_checkpoint(tmp_path / "model.bin", TINY)
    config = convert_checkpoint(tmp_path / "model.bin", tmp_path)
    with pytest.raises(TokenizerError, match="has 285 ids, and the model 300"):
        convert_tokenizer(tmp_path / "tok.bin", tmp_path, config)


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stories")
    config = convert_checkpoint(STORIES / "stories260K.bin", folder)
    convert_tokenizer(STORIES / "tok512.bin", folder, config)
    return folder


@needs_data
def test_the_published_model_is_recognised() -> None:
    assert read_header(STORIES / "stories260K.bin") == (64, 172, 5, 8, 4, 512, 512)
    with pytest.raises(ModelError):
        read_header(STORIES / "tok512.bin")


@needs_data
def test_the_published_tokenizer_gives_the_ids_of_the_c_code(stories: Path) -> None:
    import gzip

    from transformers import AutoTokenizer

    pieces = read_pieces(STORIES / "tok512.bin")
    ours = tokenizers.Tokenizer.from_file(str(stories / "tokenizer.json"))
    theirs = AutoTokenizer.from_pretrained(stories)
    texts = gzip.decompress((DATA / "en_tinystories" / "tinystories.txt.gz").read_bytes()).decode().split("\n\n")
    hard = [
        "",
        " ",
        "   x",
        "a\tb",
        "你好 🦙",
        "ÿ",
        "Lily's \u201cball\u201d...  !!",
        "\n\n\n",
        "<0x0A>",
        "aaaaaaaaaaaa",
    ]
    for text in texts[:60] + hard:
        expected = c_encode(pieces, text)
        assert ours.encode(text, add_special_tokens=False).ids == expected
        assert theirs(text)["input_ids"] == [1, *expected]


@needs_data
def test_the_published_model_tells_a_story_in_transformers_and_here(stories: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(stories)
    prompt = tokenizer("Once upon a time", return_tensors="pt")
    theirs = AutoModelForCausalLM.from_pretrained(stories)
    ids = theirs.generate(**prompt, max_new_tokens=40, do_sample=False)
    text = tokenizer.decode(ids[0], skip_special_tokens=True)
    assert text.startswith("Once upon a time, there was a little girl named Lily. She loved to play")
    model = load_model(stories)
    with torch.no_grad():
        greedy = model.logits(model(ids[:, :-1])).argmax(-1)
    start = prompt["input_ids"].shape[1]
    assert greedy[0, start - 1 :].tolist() == ids[0, start:].tolist()
    assert json.loads((stories / "config.json").read_text())["num_key_value_heads"] == 4
