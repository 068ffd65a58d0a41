import os

from hypothesis import given
from hypothesis import strategies as st

from dunwu.core.lineage import FileHashes, differences, flatten, stable_hash

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=4))
def test_a_hash_does_not_depend_on_the_order_of_keys(value):
    assert stable_hash(value) == stable_hash(dict(reversed(value.items())))


def test_a_hash_tells_values_apart_that_look_alike():
    alike = [1, "1", [1], {"1": 1}, True, None, "", [], {}]
    assert len({stable_hash(value) for value in alike}) == len(alike)


def test_differences_name_what_changed_came_and_went():
    before = {"sft": {"epochs": 2, "sources": [{"weight": 1.0}]}, "seed": 0}
    after = {"sft": {"epochs": 3, "sources": [{"weight": 1.0}, {"weight": 2.0}]}}
    assert differences(before, after) == [
        ("sft.epochs", 2, 3),
        ("seed", 0, None),
        ("sft.sources.1.weight", None, 2.0),
    ]
    assert flatten({"a": [], "b": {}}) == {"a": [], "b": {}}


def test_a_file_is_read_again_only_when_its_size_or_time_changed(tmp_path, monkeypatch):
    file, memory = tmp_path / "text.txt", tmp_path / "memory.json"
    file.write_text("one")
    hashes = FileHashes(memory)
    first = hashes.of(file)
    hashes.save()
    monkeypatch.setattr("dunwu.core.lineage.sha256_file", lambda path: "read")
    assert FileHashes(memory).of(file) == first
    os.utime(file, ns=(1, 1))
    assert FileHashes(memory).of(file) == "read"


def test_a_damaged_memory_of_hashes_is_forgotten(tmp_path):
    memory = tmp_path / "memory.json"
    memory.write_text("{")
    file = tmp_path / "text.txt"
    file.write_text("one")
    assert len(FileHashes(memory).of(file)) == 64
