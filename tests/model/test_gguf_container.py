"""The container: what is written is read back, by us and by the reference reader; what lies is refused before it costs."""

import struct

import numpy as np
import pytest

from dunwu.core.errors import ModelError
from dunwu.model.gguf.container import BLOCK_TYPE, BLOCK_TYPES, Container, TensorEntry, Value, write_container

METADATA = {
    "general.architecture": Value("str", "llama"),
    "llama.block_count": Value("u32", 3),
    "llama.rope.freq_base": Value("f32", 0.1),
    "deep": Value("u64", 1 << 40),
    "cold": Value("i32", -5),
    "yes": Value("bool", True),
    "tokens": Value("str", ["a", "猫", ""]),
    "kinds": Value("i32", [1, -2, 3]),
    "scores": Value("f32", [0.5, -1.0]),
    "flags": Value("bool", [True, False]),
    "small": Value("u8", [0, 255]),
    "none": Value("str", []),
}


@pytest.fixture
def written(tmp_path):
    arrays = {
        "one": np.arange(6, dtype=np.float32).reshape(2, 3),
        "two": np.arange(5, dtype=np.float32),
        "three": np.arange(8, dtype=np.float32).reshape(2, 1, 4),
    }
    path = tmp_path / "x.gguf"
    entries = [TensorEntry(name, array.shape, BLOCK_TYPE["F32"]) for name, array in arrays.items()]
    size = write_container(path, METADATA, entries, lambda entry: [arrays[entry.name]])
    assert size == path.stat().st_size
    return path, arrays


def test_what_is_written_is_read(written):
    path, arrays = written
    file = Container(path)
    for key, value in METADATA.items():
        wanted = np.float32(value.value) if value.kind == "f32" else value.value
        assert np.array_equal(file.metadata[key], wanted), key
    for name, array in arrays.items():
        assert file.tensors[name].shape == array.shape
        assert np.array_equal(file.data(name).view(np.float32).reshape(array.shape), array)


def test_the_reference_reader_agrees(written):
    gguf = pytest.importorskip("gguf")
    path, arrays = written
    reader = gguf.GGUFReader(path)
    for key, value in METADATA.items():
        if value.value != []:
            wanted = np.float32(value.value) if value.kind == "f32" else value.value
            assert np.array_equal(reader.get_field(key).contents(), wanted), key
    for tensor in reader.tensors:
        assert np.array_equal(tensor.data, arrays[tensor.name])


def test_block_types_are_those_of_the_reference():
    gguf = pytest.importorskip("gguf")
    for kind, (length, size) in gguf.GGML_QUANT_SIZES.items():
        if kind.name in BLOCK_TYPE:
            assert BLOCK_TYPES[kind.value] == BLOCK_TYPE[kind.name]
            assert (BLOCK_TYPE[kind.name].length, BLOCK_TYPE[kind.name].size) == (length, size)


def _header(tensors=0, keys=0, version=3, magic=b"GGUF"):
    return magic + struct.pack("<IQQ", version, tensors, keys)


def _text(text):
    return struct.pack("<Q", len(text)) + text


def _entry(shape=(4,), number=0, offset=0, name=b"w"):
    return _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, number, offset)


BAD = {
    "empty": (b"", "cannot be read"),
    "not GGUF": (b"PK\3\4" + bytes(100), "does not begin with GGUF"),
    "version 1": (_header(version=1) + bytes(100), "version 1"),
    "big-endian": (_header(version=3 << 24) + bytes(100), "big-endian"),
    "billions of keys": (_header(keys=1 << 62) + bytes(100), "keys"),
    "billions of tensors": (_header(tensors=1 << 40) + bytes(100), "tensors"),
    "a text of terabytes": (_header(keys=1) + struct.pack("<Q", 1 << 42) + bytes(20), "a text of"),
    "a list of terabytes": (_header(keys=1) + _text(b"k") + struct.pack("<IIQ", 9, 4, 1 << 40) + bytes(20), "numbers in 'k'"),
    "texts without end": (_header(keys=1) + _text(b"k") + struct.pack("<IIQ", 9, 8, 1 << 40) + bytes(20), "texts in 'k'"),
    "lists in lists": (_header(keys=1) + _text(b"k") + struct.pack("<IIQ", 9, 9, 1) + bytes(20), "lists within"),
    "an unknown kind": (_header(keys=1) + _text(b"k") + struct.pack("<I", 77) + bytes(20), "value of type 77"),
    "a tensor of terabytes": (_header(tensors=1) + _entry((1 << 40,)) + bytes(64), "would end at byte"),
    "a tensor beyond the end": (_header(tensors=1) + _entry((4,), offset=1 << 50) + bytes(64), "would end at byte"),
    "overflowing shape": (_header(tensors=1) + _entry((1 << 63, 1 << 63)) + bytes(64), "would end at byte"),
    "five dimensions": (_header(tensors=1) + _entry((1, 1, 1, 1, 1)) + bytes(64), "5 dimensions"),
    "no numbers": (_header(tensors=1) + _entry((0,)) + bytes(64), "no axis may be empty"),
    "an unknown type": (_header(tensors=1) + _entry((4,), number=999) + bytes(64), "tensor type 999"),
    "half a block": (_header(tensors=1) + _entry((33,), number=8) + bytes(64), "its blocks have 32"),
    "twice the same": (_header(tensors=2) + _entry() + _entry() + bytes(64), "twice"),
    "odd alignment": (
        _header(keys=1) + _text(b"general.alignment") + struct.pack("<II", 4, 33) + bytes(64),
        "power of two",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD)
def test_a_file_that_lies_is_refused(tmp_path, data, message):
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=message):
        Container(path)


def test_a_file_cut_anywhere_is_refused(written, tmp_path):
    path, _ = written
    whole = path.read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in range(1, len(whole) - 31, 7):  # the last bytes pad
        cut.write_bytes(whole[:size])
        with pytest.raises(ModelError):
            Container(cut)
