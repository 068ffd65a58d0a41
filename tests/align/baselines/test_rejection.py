"""Which answers are kept, by hand; what is drawn lies on disk whole, and a run that was killed draws only what is missing."""

import json

import pytest

from dunwu.align.baselines.best_of_n import Drawn
from dunwu.align.baselines.rejection import keepers, sift
from dunwu.align.rewards import make_reward
from dunwu.chat.scripted import Answer, ScriptedChat
from dunwu.cli import run
from dunwu.core.errors import DataError, RecipeError
from dunwu.core.progress import SilentProgress
from dunwu.core.recipe import SftFileSource
from dunwu.core.records import Completion, Message
from dunwu.core.rejection import RejectionSpec, rejection_spec
from dunwu.core.rewards import reward_specs
from dunwu.corpus.instructions import read_instructions
from dunwu.corpus.prompts import Prompt


def drawn(*answers):
    completions = tuple(Completion(text=t, ids=(), finish_reason=r) for t, _, r in answers)
    return Drawn(Prompt((), {}, "x"), completions, tuple(float(total) for _, total, _ in answers), {})


ONE = drawn(
    ("a", 1, "stop"), ("b", 3, "stop"), ("b ", 3, "stop"), ("c", 2, "stop"), ("d", 3, "length"), (" ", 3, "stop")
)


@pytest.mark.parametrize(
    ("options", "places"),
    [
        ({}, [1]),
        ({"most": 3}, [1]),
        ({"at_least": 2, "most": 3}, [1, 3]),
        ({"at_least": 2}, [1]),
        ({"at_least": 4}, []),
    ],
)
def test_keepers_by_hand(options, places):
    assert keepers(ONE, RejectionSpec(**options)) == places


def test_where_all_scored_alike_only_a_threshold_tells():
    alike = drawn(("a", 1, "stop"), ("b", 1, "stop"))
    assert keepers(alike, RejectionSpec()) == []
    assert keepers(alike, RejectionSpec(at_least=1, most=2)) == [0, 1]


def test_words():
    assert rejection_spec(["rejection.n=16", "rejection.at_least=0.5"]) == RejectionSpec(n=16, at_least=0.5)
    with pytest.raises(RecipeError, match=r"did you mean rejection\.n"):
        rejection_spec(["rejection.nn=16"])
    with pytest.raises(RecipeError, match=r"rejection.n=1: must be at least 2"):
        rejection_spec(["rejection.n=1"])


PROMPTS = [Prompt((Message(role="user", content=f"{n} + 1?"),), {"answer": n + 1}, f"p#{n}") for n in range(70)]
REWARD = make_reward(reward_specs(["math"]))
SPEC = RejectionSpec(n=2)


def solving(calls, until=None):
    """Right at first, wrong at second; dies at its `until`th answer."""

    def says(messages):
        calls.append(messages[-1].content)
        if until is not None and len(calls) >= until:
            raise KeyboardInterrupt
        number = int(messages[-1].content.split()[0])
        return Answer(text=f"The answer is {number + 1 + (len(calls) + 1) % 2}.")

    return ScriptedChat(says)


def sifted(folder, chat, spec=SPEC, model="m"):
    return sift(chat, PROMPTS, REWARD, spec, folder, origin={"model": model}, progress=SilentProgress())


def test_a_run_that_was_killed_draws_only_what_is_missing_and_ends_alike(tmp_path):
    whole: list[str] = []
    result = sifted(tmp_path / "whole", solving(whole))
    assert (result.drawn, result.kept, result.alike, result.mean) == (140, 70, 0, 0.5)
    cut: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        sifted(tmp_path / "cut", solving(cut, until=130))
    assert not (tmp_path / "cut" / "kept.jsonl").exists()
    rest: list[str] = []
    sifted(tmp_path / "cut", solving(rest))
    assert rest == whole[128:]
    assert (tmp_path / "cut" / "kept.jsonl").read_bytes() == (tmp_path / "whole" / "kept.jsonl").read_bytes()
    again: list[str] = []
    sifted(tmp_path / "cut", solving(again), RejectionSpec(n=2, at_least=0.5))
    assert again == []
    sifted(tmp_path / "cut", solving(again), model="another")
    assert again == whole


def test_what_is_kept_is_a_file_of_conversations_that_says_where_they_come_from(tmp_path):
    file = sifted(tmp_path, solving([])).file
    row = json.loads(file.read_text().splitlines()[3])
    assert (row["source"], row["reward"], row["mean"], row["drawn"]) == ("p#3", 1, 0.5, 0)
    examples = list(read_instructions(SftFileSource(path=str(file))))
    assert len(examples) == 70
    assert [message.content for message in examples[3].messages] == ["3 + 1?", "The answer is 4."]


def test_nothing_kept_is_an_error_that_says_what_to_try(tmp_path):
    wrong = ScriptedChat(lambda messages: "0")
    with pytest.raises(DataError, match=r"none of 140 answers is kept \(the best total is 0\).*scored alike"):
        sifted(tmp_path, wrong)
    with pytest.raises(DataError, match=r"lower rejection.at_least=1, draw more"):
        sifted(tmp_path, wrong, RejectionSpec(n=2, at_least=1))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["FILE"], "how answers are judged: give --reward KIND"),
        (["--reward", "math"], "nothing to answer"),
        (["FILE", "--reward", "mth"], "there is no 'mth'"),
        (["FILE", "--reward", "math", "rejection.mst=3"], "did you mean rejection.most"),
        (["FILE", "--reward", "math", "--plan"], "--plan can say nothing before answers are drawn"),
    ],
)
def test_what_is_missing_is_said_before_a_model_is_read(tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("")
    assert run(["align", "MODEL", *words, "--method", "rejection"]) == 2
    assert says in capsys.readouterr().err
