"""The journal survives a kill at any byte, and damage; and nothing else is taken for one."""

import subprocess
import sys

import pytest

from dunwu.core.errors import DataError, DiskError
from dunwu.prompt.making.journal import Given, head_of, opened, require_same

HEAD = {"method": "qa", "seed": 0}


def given(number: int, text: str = "Line\nbreak, 中文 and \ud800.") -> Given:
    return Given(
        request=f"r{number}",
        step="pairs",
        text=f"{text} {number}",
        reason="stop",
        prompt_tokens=10,
        completion_tokens=number,
        cost=0.5,
        model="m",
        seconds=0.1,
    )


def write(path, count: int = 3) -> None:
    with opened(path) as journal:
        journal.settle(HEAD)
        for number in range(count):
            journal.add(given(number))


def test_what_was_added_is_there_again(tmp_path):
    path = tmp_path / "a" / "journal.jsonl"
    write(path)
    with opened(path) as journal:
        assert journal.head == HEAD
        assert [journal.get(f"r{number}") for number in range(4)] == [given(0), given(1), given(2), None]
        assert journal.damaged == 0
    assert head_of(path) == HEAD


def test_a_kill_at_any_byte_costs_the_last_answer_at_most(tmp_path):
    path = tmp_path / "journal.jsonl"
    write(path)
    whole = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    cuts = {near for end in [0, 4, *ends] for near in (end - 1, end, end + 1, end + 12) if 0 <= near <= len(whole)}
    for cut in sorted({*cuts, *range(0, len(whole), 31)}):
        path.write_bytes(whole[:cut])
        with opened(path) as journal:
            lines = sum(end <= cut for end in ends)
            assert len(journal) == max(0, lines - 1)
            assert bool(journal.head) == (lines > 0)
            if not journal.head:
                journal.settle(HEAD)
            journal.add(given(7))
        with opened(path) as journal:
            assert journal.get("r7") == given(7)
            assert journal.damaged == 0


def test_damaged_lines_are_passed_over_and_counted(tmp_path):
    path = tmp_path / "journal.jsonl"
    write(path)
    lines = path.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b"break", b"brake")  # still JSON; the checksum tells
    path.write_bytes(b"\n".join(lines))
    with opened(path) as journal:
        assert journal.get("r0") == given(0)
        assert journal.get("r1") is None
        assert journal.get("r2") == given(2)
        assert journal.damaged == 1


def test_a_new_head_keeps_the_answers(tmp_path):
    path = tmp_path / "journal.jsonl"
    write(path)
    with opened(path) as journal:
        journal.settle({"method": "qa", "seed": 1})
    with opened(path) as journal:
        assert journal.head == {"method": "qa", "seed": 1}
        assert len(journal) == 3


@pytest.mark.parametrize(
    "content", [b'{"question": "mine"}\n', b"my notes", b'{"head": {"mine": 1}}\n\n', b"\xff\xfe\n"]
)
def test_a_file_of_somebody_elses_is_left_alone(tmp_path, content):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(content)
    if content.startswith(b'{"head"'):  # looks like a torn one of ours, but for the checksum: counted, not cut
        with opened(path) as journal:
            assert journal.damaged == 2
    else:
        with pytest.raises(DataError, match="no journal"), opened(path):
            pass
    assert path.read_bytes() == content


def test_two_processes_do_not_write_one_journal(tmp_path):
    path = tmp_path / "journal.jsonl"
    write(path)
    program = (
        "import sys\nfrom pathlib import Path\nfrom dunwu.prompt.making.journal import opened\n"
        "from dunwu.core.errors import DataError\n"
        "try:\n    with opened(Path(sys.argv[1])): print('opened')\nexcept DataError as error: print(error)"
    )
    with opened(path):
        told = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=60)
    assert "in use" in told.stdout, told.stderr


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="cannot write"), opened(tmp_path / "file" / "journal.jsonl"):
        pass


def test_other_settings_are_named(tmp_path):
    with pytest.raises(DataError, match=r"seed: 0 → 1.*--anew"):
        require_same(HEAD, {"method": "qa", "seed": 1}, tmp_path / "made.jsonl")
    require_same(HEAD, dict(HEAD), tmp_path / "made.jsonl")
