"""Prompt search: what it tries, what it says of the held-out part, and that it finds nothing where there is nothing to find."""

import json
import random
from itertools import pairwise

import pytest

from dunwu.chat.protocol import Chat, Delta, Finish
from dunwu.chat.scripted import ScriptedChat
from dunwu.core.errors import DataError
from dunwu.core.problems import Problem
from dunwu.core.records import Message
from dunwu.evaluate.paired import paired
from dunwu.evaluate.stats import mean_interval
from dunwu.prompt.search.candidate import Candidate, Prompted, read_candidate, write_candidate
from dunwu.prompt.search.propose import candidates, propose, shot_sets
from dunwu.prompt.search.run import SearchSettings, Tried, parts, search
from dunwu.prompt.strategies.base import StrategyChat
from dunwu.prompt.strategies.registry import strategy

PROBLEMS = [Problem(id=str(n), input=f"What is {n} + 1?", target=str(n + 1)) for n in range(90)]
SETTINGS = SearchSettings(instructions=3, shot_sets=3, k=2, candidates=8)


class Coin(Chat):
    """Right with a probability that only `odds` of the prompt decides, drawn anew for each answer. It says the answer, or "no"."""

    def __init__(self, seed, odds):
        self.rng, self.odds, self.said = random.Random(seed), odds, 0

    def pieces(self, messages, options=None, **changes):
        self.said += 1
        asked = messages[-1].content
        if asked.startswith("Here are some questions"):
            yield Delta(text=f"Instruction number {self.said}")
        else:
            number = int(asked.split()[2])
            yield Delta(text=str(number + 1) if self.rng.random() < self.odds(messages) else "no")
        yield Finish(reason="stop")


def run(chat, settings, problems=PROBLEMS):
    def try_(candidate, asked):
        told = StrategyChat(Prompted(candidate=candidate), chat).reply_batch(
            [[Message(role="user", content=one.input)] for one in asked]
        )
        return [
            Tried(text=one.text, score=float(one.text == problem.target))
            for one, problem in zip(told, asked, strict=True)
        ]

    return search(problems, try_, chat, paired, settings)


def test_no_gain_is_reported_where_prompts_cannot_matter():
    """The winner of nine equal prompts looks better on the development part; held out, at most one in twenty is borne out."""
    seeds, borne_out, on_dev, held_out = 240, 0, [], []
    for seed in range(seeds):
        found = run(Coin(seed, lambda messages: 0.5), SETTINGS.model_copy(update={"seed": seed}))
        borne_out += found.gained
        on_dev.append(max(one.mean for one in found.trials if one.n == found.sizes[1]) - found.trials[0].mean)
        held_out.append(found.after - found.before)
    assert borne_out <= 0.05 * seeds
    assert mean_interval(on_dev).low > 0.05  # what a search would report that measured by what it chose by
    low, high = mean_interval(held_out)[1:3]
    assert low <= 0 <= high


def test_a_gain_that_is_there_is_found_and_its_interval_holds_it():
    """Demonstrations raise the odds from 0.3 to 0.8."""
    seeds, found_in, covered = 60, 0, 0
    for seed in range(seeds):
        coin = Coin(1000 + seed, lambda messages: 0.8 if len(messages) > 2 else 0.3)
        found = run(coin, SETTINGS.model_copy(update={"seed": seed}))
        found_in += found.gained and bool(found.best.shots)
        assert found.gain is not None
        covered += found.gain.low <= 0.5 <= found.gain.high
    assert found_in >= 0.9 * seeds
    assert covered >= 0.87 * seeds


def test_the_winner_is_an_instruction_where_that_is_what_helps(tmp_path):
    def odds(messages):
        return 1.0 if messages[0].content.endswith("number 29") else 0.0

    found = run(Coin(0, odds), SearchSettings(instructions=4, shot_sets=0))
    assert found.best == Candidate(instruction="Instruction number 29")  # 27 train answers came before the proposals
    assert (found.before, found.after, found.gained) == (0.0, 1.0, True)
    text = "\n".join(found.lines())
    assert "plain 0.000, best 1.000; difference +1.000" in text
    assert text.endswith("borne out")
    file = tmp_path / "best.json"
    write_candidate(file, found.best, search=found.to_json())
    assert read_candidate(file) == found.best
    assert json.loads(file.read_text())["search"]["held_out"]["questions"] == found.sizes[2]
    chat = ScriptedChat(["1"])
    strategy(f"prompted:file={file}", chat).reply([Message(role="user", content="?")])
    assert [one.content for one in chat.asked[0]] == ["Instruction number 29", "?"]


def test_where_the_plain_prompt_wins_nothing_is_claimed():
    found = run(Coin(0, lambda messages: 1.0 if len(messages) == 1 else 0.0), SETTINGS)
    assert found.best.is_plain
    assert found.gain is None
    assert not found.gained
    assert "none: no prompt was better" in found.lines()[-1]
    assert found.to_json()["gained"] is False


def test_weak_candidates_are_left_early_and_the_plain_one_never():
    asked: dict[str, int] = {}

    def try_(candidate, problems):
        name = candidate.instruction + "".join(one.id for one in candidate.shots)
        asked[name] = asked.get(name, 0) + len(problems)
        return [Tried(text=one.target, score=1.0 if candidate.shots else 0.5) for one in problems]

    found = search(PROBLEMS, try_, ScriptedChat(["A", "B", "C"]), paired, SETTINGS)
    train, dev, held = found.sizes
    assert sum(found.sizes) == 90
    assert {one.n for one in found.trials} == {round(dev / 4), round(dev / 2), dev}
    assert asked[""] == train + dev + held
    assert len([one for one in found.trials if one.n == dev]) <= 4


def test_what_is_shown_are_the_models_own_right_answers():
    said = {"What is 3 + 1?": "3, then 4.\n4", "What is 5 + 1?": "7"}
    seen = []

    def try_(candidate, problems):
        seen.append(candidate.shots)
        return [Tried(text=said.get(one.input, "no"), score=float(one.input == "What is 3 + 1?")) for one in problems]

    settings = SearchSettings(instructions=0, shot_sets=2, k=1, train=0.9, dev=0.05)
    search(PROBLEMS, try_, ScriptedChat([]), paired, settings)
    targets = {shot.target for shots in seen for shot in shots}
    assert "3, then 4.\n4" in targets
    assert "7" not in targets


def test_parts_keep_groups_together_and_are_decided_by_the_seed():
    grouped = [Problem(id=str(n), input=str(n), target="x", group=f"g{n // 3}") for n in range(60)]
    train, dev, held = parts(grouped, SearchSettings())
    groups = [{one.group for one in part} for part in (train, dev, held)]
    assert all(not one & other for one, other in pairwise([*groups, groups[0]]))
    assert sorted(int(one.id) for part in (train, dev, held) for one in part) == list(range(60))
    assert parts(grouped, SearchSettings()) == (train, dev, held)
    assert parts(grouped, SearchSettings(seed=1)) != (train, dev, held)
    with pytest.raises(DataError, match="19 questions are too few"):
        parts(grouped[:19], SearchSettings())
    with pytest.raises(DataError, match="in 1 groups make parts of"):
        parts([Problem(id=str(n), input=str(n), group="one") for n in range(30)], SearchSettings())


def test_proposals_see_examples_and_different_tips():
    chat = ScriptedChat(['"Add one."', "Add one.", " "])
    assert propose(chat, PROBLEMS, count=3, seed=0) == ["Add one."]
    texts = [asked[0].content for asked in chat.asked]
    assert len(set(texts)) == 3
    assert "Be short and clear." in texts[1]
    assert texts[0].count("\n→ ") == 5
    assert len({one.seed for one in chat.options}) == 3
    chinese = ScriptedChat(["算"])
    propose(chinese, [Problem(id="1", input="三加一是多少？", target="四")], count=1, seed=0)
    assert chinese.asked[0][0].content.startswith("下面是一个任务的一些问题")


def test_candidates_are_all_combinations_up_to_a_number():
    shots = shot_sets(PROBLEMS[:4], PROBLEMS[50:], k=2, count=2, seed=0)
    assert [{int(one.id) < 4 for one in chosen} for chosen in shots] == [{True}, {False}]
    assert len(candidates(["a", "b"], shots, most=99, seed=0)) == 9
    few = candidates(["a", "b"], shots, most=3, seed=0)
    assert few[0].is_plain
    assert len(few) == 4
    assert shot_sets([], [], k=2, count=3, seed=0) == []


def test_an_instruction_joins_the_system_message():
    chat = ScriptedChat(["1"])
    talk = [Message(role="system", content="Be kind.\n"), Message(role="user", content="?")]
    shown = Candidate(instruction="Add.", shots=(Problem(id="1", input="1?", target="2"),))
    StrategyChat(Prompted(candidate=shown), chat).reply(talk)
    assert [f"{one.role}: {one.content}" for one in chat.asked[0]] == [
        "system: Be kind.\n\nAdd.",
        "user: 1?",
        "assistant: 2",
        "user: ?",
    ]


def test_a_file_that_holds_no_prompt_is_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist; give a file that"):
        read_candidate(tmp_path / "none.json")
    file = tmp_path / "other.json"
    for text in ("[]", '{"prompt": {}}', '{"prompt": {"instruction": "", "shots": [1]}}'):
        file.write_text(text)
        with pytest.raises(DataError, match="holds no prompt"):
            read_candidate(file)
