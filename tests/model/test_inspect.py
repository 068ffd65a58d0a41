"""What `dunwu inspect` says, counted a second time by hand or by transformers, and from folders that hold little or lie."""

import json
import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dunwu.cli import run
from dunwu.core.files import read_json, write_json
from dunwu.model.families import FAMILIES, config_to_hf
from dunwu.model.hub import save_model
from dunwu.model.inspect import inspect_model

from .helpers import TINY, lively

QWEN3_8B: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False, "head_dim": 128,
    "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 12288, "max_position_embeddings": 40960,
    "num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
    "rope_theta": 1000000, "tie_word_embeddings": False, "use_sliding_window": False, "vocab_size": 151936,
    "bos_token_id": 151643, "eos_token_id": 151645, "torch_dtype": "bfloat16",
}  # fmt: skip


def test_a_config_alone_gives_the_published_size_of_qwen3_8b(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", QWEN3_8B)
    facts = inspect_model(tmp_path)
    assert facts.parameters == facts.active_parameters == 8_190_735_360
    assert facts.embedding_parameters == 2 * 151936 * 4096
    assert facts.memory_bytes["bfloat16"] == 2 * facts.parameters
    assert facts.memory_bytes["float32"] == 4 * facts.parameters
    assert facts.memory_bytes["int8"] / facts.parameters == pytest.approx(8.5 / 8, rel=1e-3)
    assert facts.memory_bytes["int4"] / facts.parameters == pytest.approx(4.5 / 8, rel=1e-3)
    # Keys and values: 36 layers, 8 heads, 128 channels, 2 bytes.
    assert facts.cache_bytes[4096] == 4096 * 2 * 36 * 8 * 128 * 2
    assert list(facts.cache_bytes) == [1024, 4096, 16384, 40960]
    assert (facts.stored, facts.licence, facts.vocabulary.size, facts.context_length) == (None, None, None, 40960)


@pytest.mark.skipif("mixtral" not in FAMILIES, reason="no family with experts is there")
def test_a_mixture_counts_what_a_token_passes_through(tmp_path: Path) -> None:
    values = {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 14336, "max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_experts_per_tok": 2, "num_key_value_heads": 8, "num_local_experts": 8, "rms_norm_eps": 1e-05,
        "rope_theta": 1e6, "sliding_window": None, "tie_word_embeddings": False, "vocab_size": 32000,
    }  # fmt: skip
    write_json(tmp_path / "config.json", values)
    facts = inspect_model(tmp_path)
    assert facts.parameters == 46_702_792_704  # "46.7B total and 12.9B active", arXiv:2401.04088
    assert facts.active_parameters == 12_879_925_248
    assert facts.shape["experts"] == 8


def test_the_weights_are_looked_at_and_not_read(tmp_path: Path) -> None:
    save_model(lively(TINY).to(torch.bfloat16), tmp_path, shard_bytes=5_000)
    facts = inspect_model(tmp_path)
    assert facts.stored is not None
    assert (facts.stored.dtype, facts.stored.bytes) == ("bfloat16", 2 * facts.parameters)
    assert facts.stored.files == len(list(tmp_path.glob("*.safetensors"))) > 1
    next(iter(sorted(tmp_path.glob("*.safetensors")))).unlink()
    facts = inspect_model(tmp_path)
    assert facts.stored is None
    assert "is missing, and model.safetensors.index.json puts" in facts.problems[0]


@pytest.mark.parametrize(
    ("files", "licence"),
    [
        ({"README.md": "---\nlanguage: en\nlicense: apache-2.0\n---\nlicense: no"}, "apache-2.0"),
        (
            {"README.md": "---\nlicense: other\nlicense_name: 'qwen'\nlicense_link: LICENSE\n---\n", "LICENSE": "x"},
            "other (qwen, LICENSE)",
        ),
        ({"LICENSE": "\n\n   MIT License\n\nCopyright"}, "MIT License"),
        ({"README.md": "# license: mit"}, None),
        ({"README.md": "---\r\nlicense: mit\r\n---\r\n"}, "mit"),
    ],
)
def test_the_licence_is_what_the_papers_say(files: dict[str, str], licence: str | None, tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", config_to_hf(TINY))
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode())
    assert inspect_model(tmp_path).licence == licence


def add_tokenizer(folder: Path, size: int, **settings: Any) -> None:
    spec = {
        "model": {"type": "BPE", "vocab": {f"t{number}": number for number in range(size)}},
        "added_tokens": [{"id": size - 1, "content": "<|end|>"}],
    }
    write_json(folder / "tokenizer.json", spec)
    write_json(folder / "tokenizer_config.json", settings)


def test_tokenizer_and_template_are_named(tmp_path: Path) -> None:
    save_model(lively(TINY), tmp_path)
    add_tokenizer(
        tmp_path, 61, eos_token={"content": "<|end|>"}, bos_token="t0", pad_token=None, chat_template="{{ x }}"
    )
    facts = inspect_model(tmp_path)
    assert (facts.vocabulary.kind, facts.vocabulary.size) == ("BPE", 61)
    assert facts.vocabulary.special == {"bos_token": "t0", "eos_token": "<|end|>"}
    assert facts.vocabulary.template == "tokenizer_config.json"
    assert facts.problems == ()
    (tmp_path / "chat_template.jinja").write_text("{{ x }}")
    assert inspect_model(tmp_path).vocabulary.template == "chat_template.jinja"


@pytest.mark.parametrize(
    ("size", "vocab_size", "problem"),
    [
        (70, 61, "ids up to 69, and the model embeds 61"),
        (61, 61 + 200, "200 of the model's tokens have no text"),
        (61, 61 + 100, None),
        (62, 61, None),  # a control token beyond the last row
        (1000, 151936, "150936 of the model's tokens have no text"),
    ],
)
def test_a_tokenizer_of_another_model_is_a_problem(
    size: int, vocab_size: int, problem: str | None, tmp_path: Path
) -> None:
    write_json(tmp_path / "config.json", config_to_hf(replace(TINY, vocab_size=vocab_size)))
    add_tokenizer(tmp_path, size)
    problems = inspect_model(tmp_path).problems
    assert problems == () if problem is None else problem in problems[0]


def test_quantised_weights_are_a_problem(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", config_to_hf(TINY) | {"quantization_config": {"quant_method": "fp8"}})
    assert "the weights are quantised (fp8)" in inspect_model(tmp_path).problems[-1]


def test_the_command_shows_no_control_characters_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(lively(TINY), tmp_path)
    add_tokenizer(tmp_path, 61, eos_token="\x1b[31mred\n\u202eback", unk_token=["no", "text"])
    (tmp_path / "LICENSE").write_text("\x1b]0;title\x07 licence")
    write_json(tmp_path / "dunwu.json", {"name": "a\x1b[2Jb", "lineage": {"imported": {"source": "x\x9b1my"}}})
    assert run(["inspect", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "red" in shown
    assert not set(shown) & {"\x1b", "\x07", "\x9b", "\u202e"}
    assert len([line for line in shown.splitlines() if line.startswith("special")]) == 1
    assert run(["inspect", str(tmp_path), "--json"]) == 0
    raw = capsys.readouterr().out
    assert raw.isascii()
    assert "\x1b" not in raw
    assert json.loads(raw)["vocabulary"]["special"]["eos_token"] == "\x1b[31mred\n\u202eback"


def test_the_command_fails_with_a_line_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(tmp_path / "absent")]) == 2
    assert run(["inspect", str(tmp_path)]) == 2
    write_json(tmp_path / "config.json", {"model_type": "mixtrall"})
    assert run(["inspect", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    assert len(errors.strip().splitlines()) == 3
    assert "nearest" in errors


def test_a_hugging_face_folder_becomes_a_home_with_its_lineage(stories: Path, tmp_path: Path) -> None:
    (stories / "README.md").write_text("---\nlicense: mit\n---\n# Mine")
    (stories / "modeling_evil.py").write_text("raise SystemExit")
    first = read_json(stories / "dunwu.json")["lineage"]["imported"]
    home = tmp_path / "home"
    assert run(["import", str(stories), "--out", str(home)]) == 0
    about = read_json(home / "dunwu.json")
    origin = about["lineage"]["imported"]
    assert (about["licence"], about["instruction_tuned"], origin["form"]) == ("mit", False, "huggingface")
    assert origin["before"] == first
    assert {**origin["files"], "dunwu.json": origin["source_files"]["dunwu.json"]} == origin["source_files"]
    assert set(origin["files"]) == {
        "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert all((home / name).read_bytes() == (stories / name).read_bytes() for name in origin["files"])
    assert run(["import", str(stories), "--out", str(home)]) == 2


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    """A small llama2.c model of random weights, imported."""
    texts = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % byte for byte in range(256)), b" ", b"a", b" a"]
    body = b"".join(struct.pack("<fi", -float(number), len(text)) + text for number, text in enumerate(texts))
    (tmp_path / "tokenizer.bin").write_bytes(struct.pack("<i", 6) + body)
    header = (8, 12, 1, 2, 1, len(texts), 16)
    count = len(texts) * 8 + 8 + 64 + 32 + 32 + 64 + 8 + 3 * 96 + 8 + 2 * 16 * 2
    weights = torch.randn(count, generator=torch.Generator().manual_seed(0)).numpy().tobytes()
    (tmp_path / "tiny.bin").write_bytes(struct.pack("<7i", *header) + weights)
    assert run(["import", str(tmp_path / "tiny.bin"), "--out", str(tmp_path / "tiny")]) == 0
    return tmp_path / "tiny"


def test_a_llama2c_file_becomes_a_home_that_continues_text(
    stories: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    origin = read_json(stories / "dunwu.json")["lineage"]["imported"]
    assert set(origin["source_files"]) == {"tiny.bin", "tokenizer.bin"}
    assert "do not say under which licence" in (stories / "README.md").read_text()
    capsys.readouterr()
    assert run(["generate", str(stories), "a", "--max-tokens", "3", "--temperature", "0"]) == 0
    assert capsys.readouterr().out.startswith("a")


@pytest.mark.parametrize("case", ["no tokenizer", "NaN", "pickle", "text", "absent", "foreign tokenizer"])
def test_what_cannot_be_imported_leaves_nothing_behind(
    case: str, stories: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, words = tmp_path / "tiny.bin", []
    if case == "no tokenizer":
        (tmp_path / "tokenizer.bin").unlink()
    elif case == "NaN":
        raw = source.read_bytes()
        source.write_bytes(raw[:28] + struct.pack("<f", math.nan) + raw[32:])
    elif case == "pickle":
        source = tmp_path / "model.pt"
        source.write_bytes(b"PK\x03\x04 archive")
    elif case == "text":
        source = tmp_path / "notes.txt"
        source.write_text("Once upon a time there was no model here.")
    elif case == "absent":
        source = tmp_path / "absent"
    else:
        source = stories
        words = ["--tokenizer", str(tmp_path / "tokenizer.bin")]
    before = sorted(tmp_path.iterdir())
    capsys.readouterr()
    assert run(["import", str(source), "--out", str(tmp_path / "home"), *words]) == 2
    message = capsys.readouterr().err
    assert {
        "no tokenizer": "give its tokenizer with --tokenizer FILE",
        "NaN": "NaN or infinite",
        "pickle": "looks like a pickle",
        "text": "is no llama2.c checkpoint",
        "absent": "does not exist",
        "foreign tokenizer": "brings its own",
    }[case] in message
    assert sorted(tmp_path.iterdir()) == before
