"""A batch for eyes: what is learned and what is not, in both languages, with and without colour."""

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from dunwu.build.batch_view import LEARNED, READ, SPECIAL_LEARNED, SPECIAL_READ, batch_view, legend
from dunwu.cli import run
from dunwu.core.records import Message, Tokens
from dunwu.corpus.stream import SftStream
from dunwu.tokenizer.bpe import Tokenizer, train_tokenizer
from dunwu.tokenizer.template import encode_chat


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_tokenizer([], vocab_size=259, out=tmp_path_factory.mktemp("bytes"))


def talk(question: str, answer: str) -> tuple[Message, ...]:
    return Message(role="user", content=question), Message(role="assistant", content=answer)


def stream(tokenizer: Tokenizer, context_length: int, *talks: tuple[Message, ...]) -> SftStream:
    return SftStream([encode_chat(tokenizer, one) for one in talks], context_length=context_length, seed=0)


def test_without_colour_what_is_learned_stands_in_brackets(tokenizer):
    rows = stream(tokenizer, 80, talk("几只？", "两只。"), talk("And dogs?", "One.\nTwo."))
    view = batch_view(rows.batch(0, 1), tokenizer, first_row=0, colour=False).plain
    learned = len("两只。".encode()) + len("One.\nTwo.") + 2
    used = sum(
        len(encode_chat(tokenizer, one).ids) - 1 for one in (talk("几只？", "两只。"), talk("And dogs?", "One.\nTwo."))
    )
    head, _, rest = view.partition("\n")
    assert head == (
        f"row 0: 2 conversation(s), 80 places: {learned} learned, {used - learned} only read, {80 - used} of padding"
    )
    first = "<|im_start|>user↵\n几只？<|im_end|>↵\n<|im_start|>assistant↵\n⟦两只。<|im_end|>⟧\n"
    second = "<|im_start|>user↵\nAnd dogs?<|im_end|>↵\n<|im_start|>assistant↵\n⟦One.↵\nTwo.<|im_end|>⟧\n"
    assert sorted(rest.split("────────\n")) == sorted(["", first, second])
    assert "⟦learned⟧" in legend(colour=False).plain


def test_with_colour_each_kind_has_its_own_and_no_brackets(tokenizer):
    rows = stream(tokenizer, 40, talk("几？", "两[bold]。"))
    view = batch_view(rows.batch(0, 1), tokenizer, first_row=7, colour=True)
    looks = {view.plain[span.start : span.end]: span.style for span in view.spans}
    assert looks["两[bold]。"] == LEARNED
    assert looks["user↵\n几？"] == READ
    assert looks["<|im_start|>"] == SPECIAL_READ
    assert SPECIAL_LEARNED in {span.style for span in view.spans if view.plain[span.start : span.end] == "<|im_end|>"}
    assert "⟦" not in view.plain
    console = Console(force_terminal=True, color_system="standard", width=200)
    with console.capture() as captured:
        console.print(view)
    assert "两[bold]。" in captured.get()  # what the data says is no markup


def test_a_row_that_is_full_and_a_last_token_that_is_learned_are_whole(tokenizer):
    ids = np.array([*tokenizer.encode("Q:A"), tokenizer.im_end_id], np.int32)
    tokens = Tokens(ids=ids, learned=np.array([False, False, True, True]))
    view = batch_view(SftStream([tokens], context_length=3, seed=0).batch(0, 1), tokenizer, first_row=0, colour=False)
    assert (
        view.plain
        == "row 0: 1 conversation(s), 3 places: 2 learned, 1 only read, 0 of padding\n────────\nQ:⟦A<|im_end|>⟧\n"
    )


def test_escapes_in_the_data_are_shown_not_obeyed(tokenizer):
    view = batch_view(stream(tokenizer, 40, talk("\x1b[2J", "a")).batch(0, 1), tokenizer, first_row=0, colour=False)
    assert "\x1b" not in view.plain
    assert "␛[2J" in view.plain


def write(folder: Path) -> list[str]:
    rows = [{"instruction": f"几只？ {number}", "output": "两只。"} for number in range(9)]
    (folder / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "not json\n", "utf-8")
    (folder / "recipe.yaml").write_text(
        "corpus: {sources: [{kind: world}]}\nsft: {sources: [{kind: file, path: talk.jsonl}]}\nmodel: {context_length: 200}\n"
    )
    return ["show-batch", str(folder / "recipe.yaml"), f"out={folder / 'home'}"]


def test_the_command_prints_rows_and_says_what_was_left_out_and_makes_nothing(tmp_path, capsys):
    assert run([*write(tmp_path), "--rows", "2", "--first-row", "1"]) == 0
    said = capsys.readouterr()
    assert said.out.count("⟦两只。<|im_end|>⟧") >= 2
    assert "row 1: " in said.out
    assert "row 2: " in said.out
    assert "\x1b" not in said.out
    assert "every byte is a token here" in said.err
    assert "rows left out: 1 (is not valid JSON: 1)" in said.err
    assert not (tmp_path / "home").exists()


def test_the_command_takes_the_tokenizer_and_the_context_that_it_is_given(tmp_path, capsys):
    train_tokenizer(["几只？两只。"] * 9, vocab_size=270, out=tmp_path / "own")
    assert run([*write(tmp_path), "--tokenizer", str(tmp_path / "own"), "--context-length", "64", "--rows", "1"]) == 0
    said = capsys.readouterr()
    assert "64 places" in said.out
    assert "every byte" not in said.err


@pytest.mark.parametrize(
    ("words", "told"),
    [(["sft.sources=[]"], "has no sft.sources"), (["--rows", "0"], "rows"), (["--tokenizer", "nowhere"], "nowhere")],
)
def test_what_cannot_be_shown_is_said(tmp_path, capsys, words, told):
    assert run([*write(tmp_path), *words]) == 2
    assert told in capsys.readouterr().err
