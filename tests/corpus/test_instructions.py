import gzip
import json
import tracemalloc
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import zstandard

from dunwu.core.errors import DataError
from dunwu.core.recipe import SftFileSource
from dunwu.corpus import json_rows as json_rows_module
from dunwu.corpus.instructions import InstructionReader, read_instructions

DATA = Path(__file__).parents[2].parent / "shared" / "data"
ALPACA = {"instruction": "Add.", "input": "1, 2", "output": "3"}


def write_lines(path: Path, rows: list[object]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def read(path: Path, bad_rows: str = "drop") -> list[list[tuple[str, str]]]:
    source = SftFileSource.model_validate({"path": str(path), "bad_rows": bad_rows})
    return [[(message.role, message.content) for message in example.messages] for example in read_instructions(source)]


PAIR = [("user", "Q"), ("assistant", "A")]


@pytest.mark.parametrize(
    ("row", "conversation"),
    [
        ({"instruction": "Q", "input": "", "output": "A"}, PAIR),
        ({"instruction": "Q", "output": "A"}, PAIR),
        ({"instruction": "Q", "input": None, "output": "A"}, PAIR),
        ({"instruction": "Q", "input": "<noinput>", "output": "A"}, PAIR),
        ({"instruction": "Q", "input": "I", "output": "A"}, [("user", "Q\n\nI"), ("assistant", "A")]),
        ({"instruction": "Q", "context": "I", "response": "A"}, [("user", "Q\n\nI"), ("assistant", "A")]),
        ({"instruction_zh": "Q", "input_zh": "I", "output_zh": "A"}, [("user", "Q\n\nI"), ("assistant", "A")]),
        ({"指令": "Q", "输入": "I", "输出": "A"}, [("user", "Q\n\nI"), ("assistant", "A")]),
        (
            {"instruction": "Q", "output": "A", "system": "S", "history": [["q", "a"]]},
            [("system", "S"), ("user", "q"), ("assistant", "a"), *PAIR],
        ),
        ({"instruction": "Q", "instances": [{"input": "", "output": "A"}]}, PAIR),
        ({"prompt": "Q", "completion": "A"}, PAIR),
        ({"prompt": "Q", "completion": "A<|endoftext|>"}, PAIR),
        ({"prompt": "Q", "completion": "A </s>\n"}, PAIR),
        ({"prompt": "Q", "response": "A"}, PAIR),
        ({"question": "Q", "answer": "A"}, PAIR),
        ({"kind": "NLI", "input": "Q", "target": "A"}, PAIR),
        ({"问题": "Q", "回答": "A"}, PAIR),
        (
            {"prompt": [{"role": "user", "content": "Q"}], "completion": [{"role": "assistant", "content": "A"}]},
            PAIR,
        ),
        ({"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}, PAIR),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "Q"}]},
                    {"role": "assistant", "content": "A"},
                ]
            },
            PAIR,
        ),
        ({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, PAIR),
        ({"conversations": [{"from": "user", "value": "Q"}, {"from": "assistant", "value": "A"}]}, PAIR),
        ({"conversation": [{"human": "Q", "assistant": "A"}]}, PAIR),
        (
            {"system": "S", "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
            [("system", "S"), *PAIR],
        ),
        (
            {
                "conversations": [
                    {"from": "system", "value": "S"},
                    {"from": "human", "value": "Q"},
                    {"from": "gpt", "value": "A"},
                ]
            },
            [("system", "S"), *PAIR],
        ),
        (
            {
                "conversations": [
                    {"from": "system", "value": " "},
                    {"from": "human", "value": "Q"},
                    {"from": "gpt", "value": "A"},
                ]
            },
            PAIR,
        ),
    ],
)
def test_each_known_format_becomes_the_same_conversation(tmp_path, row, conversation):
    assert read(write_lines(tmp_path / "rows.jsonl", [row, row])) == [conversation] * 2


def test_several_instances_become_several_examples(tmp_path):
    row = {"instruction": "Q", "instances": [{"input": "1", "output": "A"}, {"input": "2", "output": "B"}]}
    assert [messages[1][1] for messages in read(write_lines(tmp_path / "seeds.jsonl", [row]))] == ["A", "B"]


TEXT = json.dumps([{**ALPACA, "output": f"第{number}" + "长" * number} for number in range(50)], ensure_ascii=False)
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in json.loads(TEXT))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", TEXT.encode()),
        ("a.json", json.dumps(json.loads(TEXT), indent=2).encode()),
        ("a.json", LINES.encode()),  # lines under the name of a list, as is common
        ("a.jsonl", TEXT.encode()),  # and the other way round
        ("a.jsonl", b"\n\n" + LINES.encode() + b"\n\n"),
        ("a.jsonl", LINES.replace("\n", "\r\n").encode("utf-8-sig")),
        ("a.jsonl", LINES.encode("utf-16")),
        ("a.json.gz", gzip.compress(TEXT.encode(), mtime=0)),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("a.JSONL.zst", zstandard.compress(LINES[:700].encode()) + zstandard.compress(LINES[700:].encode())),
        ("a.json.zst", zstandard.compress(TEXT.encode())),
    ],
)
@pytest.mark.parametrize("chunk", [7, 1 << 20])
def test_every_container_gives_the_same_rows(tmp_path, monkeypatch, name, content, chunk):
    monkeypatch.setattr(json_rows_module, "CHUNK_CHARACTERS", chunk)
    (tmp_path / name).write_bytes(content)
    conversations = read(tmp_path / name)
    assert [messages[1][1] for messages in conversations] == [row["output"] for row in json.loads(TEXT)]


def test_a_bad_line_7_is_named_and_the_rest_kept_or_refused(tmp_path):
    rows = [ALPACA] * 6 + ['{"instruction": "Add", "output": '] + [ALPACA] * 3
    path = write_lines(tmp_path / "alpaca.jsonl", rows)
    reader = InstructionReader(SftFileSource(path=str(path)))
    assert [example.source for example in reader] == [
        f"alpaca.jsonl#{number}" for number in (1, 2, 3, 4, 5, 6, 8, 9, 10)
    ]
    assert (reader.kept, dict(reader.dropped)) == (9, {"is not valid JSON": 1})
    assert reader.problems[0].startswith(f"{path}, line 7: is not valid JSON: Expecting value at column")
    assert reader.formats == {"alpaca.jsonl": "Alpaca"}
    with pytest.raises(DataError, match=r"alpaca.jsonl, line 7: is not valid JSON.*mend the row, or set bad_rows=drop"):
        read(path, "refuse")


def test_a_number_of_thousands_of_digits_is_a_bad_row(tmp_path):
    endless = '{"instruction": "Add", "output": ' + "7" * 5000 + "}"
    reader = InstructionReader(SftFileSource(path=str(write_lines(tmp_path / "a.jsonl", [ALPACA, endless, ALPACA]))))
    assert [example.source for example in reader] == ["a.jsonl#1", "a.jsonl#3"]
    assert "line 2: is not valid JSON: Exceeds the limit" in reader.problems[0]
    with pytest.raises(DataError, match="row 2: is not valid JSON: Exceeds the limit"):
        read(write_lines(tmp_path / "a.json", [f"[{json.dumps(ALPACA)}, {endless}]"]))


def turns(*roles_and_texts: tuple[str, str]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": text} for role, text in roles_and_texts]}


GOOD = turns(("user", "Q"), ("assistant", "A"))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (turns(("user", "Q"), ("assistant", " \n")), "has an empty answer"),
        (turns(("user", ""), ("assistant", "A")), "has an empty question"),
        (turns(("user", "Q")), "does not end with an answer"),
        (turns(("assistant", "A")), "has roles out of order"),
        (turns(("user", "Q"), ("user", "Q"), ("assistant", "A")), "has roles out of order"),
        (turns(("user", "Q"), ("system", "S"), ("assistant", "A")), "has roles out of order"),
        (turns(("user", "Q"), ("narrator", "42"), ("assistant", "A")), "has the role 'narrator'"),
        (turns(("user", "Q"), ("tool", "42"), ("assistant", "A")), "has a result that answers no call"),
        ({"messages": []}, "has roles out of order"),
        ({"messages": ["Q", "A"]}, "has a turn without role and content"),
        ({"messages": [{"role": "user"}]}, "has a turn without role and content"),
        (turns(("user", "Q"), ("assistant", 42)), "has something that is no text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": "A"}]},
            "has something that is no text",
        ),
        ({"text": "plain"}, "is not in the file's format, messages or ShareGPT"),
        ([1, 2], "is not an object"),
        (None, "is not an object"),
        (turns(("user", "Q"), ("assistant", "\ud83d")), "has text that is no Unicode"),
        ("[" * 100_000, "is not valid JSON"),
    ],
)
def test_a_row_that_cannot_be_used_is_dropped_for_its_own_reason(tmp_path, row, reason):
    reader = InstructionReader(SftFileSource(path=str(write_lines(tmp_path / "rows.jsonl", [GOOD, row, GOOD]))))
    assert len(list(reader)) == 2
    assert dict(reader.dropped) == {reason: 1}
    assert "line 2" in reader.problems[0]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": "Q", "output": ""}, "has an empty answer"),
        ({"instruction": "", "input": "", "output": "A"}, "has an empty question"),
        ({"instruction": "Q", "output": "<nooutput>"}, "has an empty answer"),
        ({"instruction": "Q", "output": float("nan")}, "has an empty answer"),
        ({"instruction": "Q", "output": ["A"]}, "has something that is no text"),
        (
            {"instruction": "Q", "output": "A", "history": ["q", "a"]},
            "has a history that is no list of [question, answer]",
        ),
    ],
)
def test_bad_alpaca_rows(tmp_path, row, reason):
    reader = InstructionReader(SftFileSource(path=str(write_lines(tmp_path / "rows.jsonl", [ALPACA, row]))))
    assert len(list(reader)) == 1
    assert dict(reader.dropped) == {reason: 1}


def test_bytes_that_are_not_utf8_are_a_bad_row(tmp_path):
    good = json.dumps(ALPACA).encode()
    (tmp_path / "a.jsonl").write_bytes(
        good + b"\n" + '{"instruction": "加", "output": "三"}'.encode("gb18030") + b"\n" + good
    )
    reader = InstructionReader(SftFileSource(path=str(tmp_path / "a.jsonl")))
    assert len(list(reader)) == 2
    assert dict(reader.dropped) == {"is not UTF-8": 1}


def test_a_row_too_long_for_memory_is_a_bad_row(tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows_module, "ROW_CHARACTERS", 1000)
    path = write_lines(tmp_path / "a.jsonl", [ALPACA, {**ALPACA, "output": "x" * 5000}, ALPACA])
    reader = InstructionReader(SftFileSource(path=str(path)))
    assert [example.source for example in reader] == ["a.jsonl#1", "a.jsonl#3"]
    assert dict(reader.dropped) == {"is too long": 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [turns(("user", "Q"), ("assistant", "A")) | {"label": False}],
            "none of the rows could be used as labelled answers .1 row.s.: an answer labelled as not wanted",
        ),
        ([{"classical": "曰", "modern": "说"}], r"no known instruction format: its keys are \['classical', 'modern'\]"),
        (
            ["not json"],
            "none of its rows is an object; the first is not valid JSON.*; write one object a line, or a list",
        ),
        ([], "it is empty"),
        (
            [{"instruction": "Q", "output": ""}],
            "none of the rows could be used as Alpaca .1 row.s.: has an empty answer",
        ),
    ],
)
def test_a_file_that_is_no_instruction_file_says_why(tmp_path, rows, message):
    path = write_lines(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match=message):
        read(path)


def test_a_row_of_another_format_in_the_same_file_is_named(tmp_path):
    rows = [ALPACA, ALPACA, GOOD, {"prompt": "Q", "completion": "A"}, ALPACA]
    path = write_lines(tmp_path / "mixed.jsonl", rows)
    reader = InstructionReader(SftFileSource(path=str(path)))
    assert [example.source for example in reader] == ["mixed.jsonl#1", "mixed.jsonl#2", "mixed.jsonl#5"]
    assert dict(reader.dropped) == {"is not in the file's format, Alpaca": 2}
    assert reader.problems[0] == f"{path}, line 3: is not in the file's format, Alpaca: its keys are ['messages']"
    with pytest.raises(DataError, match=r"mixed.jsonl, line 3: is not in the file's format, Alpaca"):
        read(path, "refuse")


def test_an_image_in_the_content_is_named(tmp_path):
    image = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "What is this?"}, {"type": "image_url"}]},
            {"role": "assistant", "content": "A cat."},
        ]
    }
    beside = {
        "image": "cat.png",
        "conversations": [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "A cat."}],
    }
    reader = InstructionReader(SftFileSource(path=str(write_lines(tmp_path / "a.jsonl", [GOOD, image, beside]))))
    assert len(list(reader)) == 1
    assert dict(reader.dropped) == {"has something that is no text": 2}
    assert "its content holds image_url; only text can be learned here" in reader.problems[0]
    assert "the row comes with 'image'" in reader.problems[1]


def test_a_list_of_many_rows_is_streamed_in_bounded_memory(tmp_path):
    """A list of 24 MB on one line, as a file of 2 GB would be: what is held at a time does not grow with it."""
    row = json.dumps({"instruction": "Say it again.", "output": "x" * 20_000})
    path = tmp_path / "big.json"
    with path.open("w") as file:
        file.write("[" + row)
        for _ in range(1199):
            file.write("," + row)
        file.write("]")

    def peak(rows: int) -> int:
        tracemalloc.start()
        kept = sum(1 for _ in islice(read_instructions(SftFileSource(path=str(path))), rows))
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert kept == rows
        return held

    few, all_of_them = peak(200), peak(1200)
    assert path.stat().st_size > 24_000_000
    assert all_of_them < 1.2 * few < 16_000_000


def damaged_list(folder: Path) -> Path:
    path = folder / "a.json"
    path.write_text('[{"prompt": "Q", "completion": "A"}, {"prompt": "Q", "compl', "utf-8")
    return path


def truncated_gzip(folder: Path) -> Path:
    path = folder / "a.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(ALPACA) + "\n").encode() * 5)[:-12])
    return path


def truncated_zstd(folder: Path) -> Path:
    lines = (json.dumps({**ALPACA, "output": f"answer {number}"}) + "\n" for number in range(2000))
    packed = zstandard.compress("".join(lines).encode())
    path = folder / "a.jsonl.zst"
    path.write_bytes(packed[: len(packed) // 2])
    return path


def not_zstd(folder: Path) -> Path:
    path = folder / "a.jsonl.zst"
    path.write_bytes(b"plainly not compressed")
    return path


def text_file(folder: Path) -> Path:
    path = folder / "a.txt"
    path.write_text("Q A")
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (damaged_list, "a.json, row 2: is not valid JSON"),
        (truncated_gzip, "damaged or cut short after row"),
        (truncated_zstd, "damaged or cut short after row"),
        (not_zstd, "damaged or cut short after row 0"),
        (text_file, "is not .json or .jsonl"),
        (lambda folder: folder, "holds no .json or .jsonl file"),
        (lambda folder: folder / "missing.json", "does not exist"),
    ],
)
def test_unreadable_files_are_named(tmp_path, make: Callable[[Path], Path], message):
    with pytest.raises(DataError, match=message):
        read(make(tmp_path))


def test_a_folder_gives_all_its_files_each_in_its_own_format(tmp_path):
    write_lines(tmp_path / "b.jsonl", [GOOD])
    write_lines(tmp_path / "a.jsonl", [{"prompt": "first", "completion": "A"}])
    (tmp_path / "README.md").write_text("not data")
    assert [messages[0][1] for messages in read(tmp_path)] == ["first", "Q"]


def test_reading_twice_counts_once(tmp_path):
    reader = InstructionReader(SftFileSource(path=str(write_lines(tmp_path / "a.jsonl", [ALPACA, 1]))))
    assert len(list(reader)) == len(list(reader)) == reader.kept == reader.dropped.total() == 1


@pytest.mark.parametrize(
    ("name", "kept", "form"),
    [
        ("instruct_alpaca_en", 9900, "Alpaca"),
        ("instruct_alpaca_zh", 9900, "Alpaca"),
        ("instruct_self_instruct", 175, "Self-Instruct"),
        ("instruct_p3_tasks", 2280, "prompt and completion"),
        ("pref_hh_rlhf", 1839, "chosen and rejected"),
        ("pref_alpaca_eval", 6417, "judged pairs"),
        ("tools_glaive_demo", 598, "messages or ShareGPT"),
        ("tools_apibank", 125, "messages or ShareGPT"),
    ],
)
def test_real_files(name, kept, form):
    if not (DATA / name).is_dir():
        pytest.skip(f"the shared data set {name} is not here")
    reader = InstructionReader(SftFileSource(path=str(DATA / name)))
    examples = list(reader)
    assert len(examples) >= kept
    assert set(reader.formats.values()) == {form}
    assert all(example.messages[-1].role == "assistant" and example.messages[-1].content for example in examples)
    assert not any(example.messages[-1].content.endswith("<|endoftext|>") for example in examples)
