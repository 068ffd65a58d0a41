"""llama2.c's files, https://github.com/karpathy/llama2.c: a checkpoint of its first format and a tokenizer, as Llama in a
Hugging Face folder.

The checkpoint: seven int32 (width, MLP width, layers, heads, key/value heads, vocabulary, context), then float32 weights by
kind, each for all layers, and two tables of rotary angles that nothing reads. A negative vocabulary means an untied head. Its
rotation turns channel 2i with 2i+1, Hugging Face's i with i+C/2: rows of queries and keys change places.

The tokenizer: int32 length of the longest piece, then for each id a float32 score, an int32 length and the bytes. It encodes
as SentencePiece does: a space before the text, characters or else their bytes, and again and again the pair whose union
scores best. The one text that gets other ids here holds U+2581, which SentencePiece's form uses as its mark for a space.

Shapes: `D` model width, `H` heads, `C` head channels.
"""

import math
import mmap
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dunwu.core.errors import ModelError, TokenizerError
from dunwu.core.files import write_json
from dunwu.model.config import DecoderConfig
from dunwu.model.families import config_to_hf
from dunwu.model.folder import WEIGHTS
from dunwu.model.gguf.reading import tokenizer_files
from dunwu.model.gguf.vocabulary import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN
from dunwu.model.hub import all_finite
from dunwu.model.safetensors_file import Outgoing, write_file

BOS_ID, EOS_ID, UNKNOWN_ID = 1, 2, 0
_SPECIAL = {UNKNOWN_ID: "<unk>", BOS_ID: "<s>", EOS_ID: "</s>"}
_HEADER = struct.Struct("<7i")
_PIECE = struct.Struct("<fi")
_LATER_MAGIC = b"24ka"  # "ak42", little-endian: the formats after the first
_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
_MOST_PIECES = 1 << 24


class Header(NamedTuple):
    """The seven numbers of a checkpoint."""

    dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    seq_len: int

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding."""
        return self.vocab_size > 0

    @property
    def kv_dim(self) -> int:
        """Channels of all key heads."""
        return self.dim // self.n_heads * self.n_kv_heads

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes in the file, in order."""
        layers, dim, hidden, vocab = self.n_layers, self.dim, self.hidden_dim, abs(self.vocab_size)
        angles = (self.seq_len, dim // self.n_heads // 2)
        return {
            "token_emb": (vocab, dim),
            "att_norm": (layers, dim),
            "wq": (layers, dim, dim),
            "wk": (layers, self.kv_dim, dim),
            "wv": (layers, self.kv_dim, dim),
            "wo": (layers, dim, dim),
            "ffn_norm": (layers, dim),
            "w1": (layers, hidden, dim),
            "w2": (layers, dim, hidden),
            "w3": (layers, hidden, dim),
            "final_norm": (dim,),
            "freq_cis_real": angles,
            "freq_cis_imag": angles,
            **({} if self.tied else {"head": (vocab, dim)}),
        }

    def file_bytes(self) -> int:
        """What a file with this header takes."""
        return _HEADER.size + 4 * sum(math.prod(shape) for shape in self.tensors().values())


def read_header(path: Path) -> Header:
    """The header of a checkpoint. Raises ModelError when the file is not one, or not as long as its header says."""
    with path.open("rb") as file:
        raw = file.read(_HEADER.size)
        size = file.seek(0, 2)
    if raw[:4] == _LATER_MAGIC:
        raise ModelError(
            f"{path} is of llama2.c's later formats, and dunwu reads the first; write it anew with llama2.c's "
            "export.py --version 0, or --version -1 for a Hugging Face folder"
        )
    if len(raw) < _HEADER.size:
        raise ModelError(f"{path} has {len(raw)} bytes, and a llama2.c header takes {_HEADER.size}; fetch it again")
    header = Header(*_HEADER.unpack(raw))
    positive = all(number > 0 for number in header[:5]) and header.vocab_size != 0 and header.seq_len > 0
    fitting = positive and header.dim % header.n_heads == 0 and header.n_heads % header.n_kv_heads == 0
    if not fitting or (header.dim // header.n_heads) % 2:
        raise ModelError(f"{path} is no llama2.c checkpoint: its header would be {header}; give another file")
    if header.file_bytes() != size:
        raise ModelError(
            f"{path} has {size} bytes, and its header {header} asks for {header.file_bytes()}; it was cut short, or is no "
            "llama2.c checkpoint: fetch it again"
        )
    return header


def config_of(header: Header) -> DecoderConfig:
    """The same network in our terms."""
    return DecoderConfig(
        architecture="llama",
        vocab_size=abs(header.vocab_size),
        hidden_size=header.dim,
        intermediate_size=header.hidden_dim,
        num_hidden_layers=header.n_layers,
        num_attention_heads=header.n_heads,
        num_key_value_heads=header.n_kv_heads,
        head_dim=header.dim // header.n_heads,
        max_position_embeddings=header.seq_len,
        rope_theta=10_000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=header.tied,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
    )


def convert_checkpoint(path: Path, folder: Path) -> DecoderConfig:
    """Write `config.json`, `generation_config.json` and `model.safetensors`; the weights stay float32.

    Raises ModelError when the file is not a checkpoint or holds a value that is no number.
    """
    header = read_header(path)
    config = config_of(header)
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    tensors = dict(_tensors(header, mapping))
    for name, tensor in tensors.items():
        if not all_finite(tensor):
            raise ModelError(
                f"{name} in {path} has values that are NaN or infinite; weights are finite: fetch it again"
            )
    outgoing = {
        name: Outgoing(dtype=tensor.dtype, shape=tuple(tensor.shape), values=(tensor,))
        for name, tensor in tensors.items()
    }
    write_file(folder / WEIGHTS, outgoing)
    write_json(folder / "config.json", config_to_hf(config))
    tokens = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID}
    write_json(folder / "generation_config.json", {"_from_model_config": True, **tokens})
    return config


def _tensors(header: Header, mapping: mmap.mmap) -> Iterator[tuple[str, Tensor]]:
    """Hugging Face's names, and views of the file in their layout."""
    stored: dict[str, Tensor] = {}
    place = _HEADER.size
    for name, shape in header.tensors().items():
        count = math.prod(shape)
        stored[name] = torch.frombuffer(mapping, dtype=torch.float32, count=count, offset=place).view(shape)
        place += 4 * count
    yield "model.embed_tokens.weight", stored["token_emb"]
    for layer in range(header.n_layers):
        at = f"model.layers.{layer}"
        yield f"{at}.self_attn.q_proj.weight", _halves(stored["wq"][layer], header.n_heads)
        yield f"{at}.self_attn.k_proj.weight", _halves(stored["wk"][layer], header.n_kv_heads)
        yield f"{at}.self_attn.v_proj.weight", stored["wv"][layer]
        yield f"{at}.self_attn.o_proj.weight", stored["wo"][layer]
        for theirs, name in (("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")):
            yield f"{at}.mlp.{name}.weight", stored[theirs][layer]
        yield f"{at}.input_layernorm.weight", stored["att_norm"][layer]
        yield f"{at}.post_attention_layernorm.weight", stored["ffn_norm"][layer]
    yield "model.norm.weight", stored["final_norm"]
    if not header.tied:
        yield "lm_head.weight", stored["head"]


def _halves(weight: Tensor, heads: int) -> Tensor:
    """Rows `[H, C/2, 2]` of neighbouring channels as `[H, 2, C/2]`."""
    return weight.view(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


class Piece(NamedTuple):
    """One id of a tokenizer."""

    score: float
    text: bytes


def read_pieces(path: Path) -> list[Piece]:
    """All pieces by id. Raises TokenizerError when the file is cut short or is not a llama2.c tokenizer."""
    raw = path.read_bytes()
    if len(raw) < 4:
        raise TokenizerError(f"{path} has {len(raw)} bytes, too few for a llama2.c tokenizer; fetch it again")
    (longest,) = struct.unpack_from("<i", raw)
    pieces: list[Piece] = []
    place = 4
    while place < len(raw):
        score, length = _PIECE.unpack_from(raw, place) if place + _PIECE.size <= len(raw) else (0.0, -1)
        place += _PIECE.size
        if not 0 <= length <= longest or place + length > len(raw) or len(pieces) >= _MOST_PIECES:
            raise TokenizerError(
                f"{path} is no llama2.c tokenizer, or was cut short: id {len(pieces)} would be {length} bytes long, the "
                f"longest piece {longest}, the file {len(raw)}; fetch it again"
            )
        pieces.append(Piece(score, raw[place : place + length]))
        place += length
    return pieces


def convert_tokenizer(path: Path, folder: Path, config: DecoderConfig) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`. Raises TokenizerError when it does not fit the model."""
    pieces = read_pieces(path)
    if len(pieces) != config.vocab_size:
        raise TokenizerError(
            f"{path} has {len(pieces)} ids, and the model {config.vocab_size}; give the tokenizer that it was trained with"
        )
    tokens = [_token(number, piece.text, path) for number, piece in enumerate(pieces)]
    metadata: dict[str, Any] = {
        "general.architecture": "llama",
        "llama.context_length": config.max_position_embeddings,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.scores": [piece.score for piece in pieces],
        "tokenizer.ggml.token_type": [_kind(number, token) for number, token in enumerate(tokens)],
        "tokenizer.ggml.bos_token_id": BOS_ID,
        "tokenizer.ggml.eos_token_id": EOS_ID,
        "tokenizer.ggml.unknown_token_id": UNKNOWN_ID,
    }
    spec, settings = tokenizer_files(metadata, tokens, rules={})
    write_json(folder / "tokenizer.json", spec)
    write_json(folder / "tokenizer_config.json", settings)


def _token(number: int, text: bytes, path: Path) -> str:
    """A piece as SentencePiece writes it; llama2.c's export wrote spaces for its mark."""
    if number in _SPECIAL:
        return _SPECIAL[number]
    try:
        return text.decode("utf-8").replace(" ", SPACE)
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: id {number} is {text!r}, which is not UTF-8; fetch the file again") from error


def _kind(number: int, token: str) -> int:
    if number == UNKNOWN_ID:
        return UNKNOWN
    if number in _SPECIAL:
        return CONTROL
    return BYTE if _BYTE_PIECE.fullmatch(token) else NORMAL
