"""What the evaluate stage asks for the alignment card: prompts that nothing was learned from, and who judges."""

from types import SimpleNamespace

import pytest

from dunwu.align.card.record import read_card
from dunwu.build.aligned import CardMaker, wants_card
from dunwu.build.exam import exam_questions
from dunwu.core.load import check_recipe
from dunwu.core.progress import SilentProgress
from dunwu.core.records import Completion
from dunwu.corpus.prompts import load_prompts
from dunwu.evaluate.exam import run_exam
from dunwu.evaluate.results import Evaluation, ExamAnswers
from dunwu.evaluate.scorers import registry

RL = {"sources": [{"kind": "world", "size": 0.3, "languages": ["en"]}], "rewards": ["world", "0.1*length:4"]}
WORLD = {"kind": "world", "size": 0.3, "languages": ["en"]}


class Answers:
    """Answers as told; notes what it was asked, and as whom."""

    def __init__(self, reply):
        self.reply, self.asked = reply, []

    def reply_batch(self, conversations, **how):
        self.asked += [tuple(message.content for message in one) for one in conversations]
        return [Completion(text=self.reply(one), ids=(1, 2, 3), finish_reason="stop") for one in conversations]


class Notes(SilentProgress):
    """Keeps what is told."""

    def __init__(self):
        self.told = []

    def note(self, text):
        self.told.append(text)


def work(folder, **changes):
    recipe = check_recipe(
        {"corpus": {"sources": [dict(WORLD)]}, "sft": {"sources": [dict(WORLD)]}, "evaluate": {"exam_questions": 10}, **changes},
        [],
        origin="here",
    )  # fmt: skip
    facts = {
        "rl": {
            "answer_tokens": 24,
            "findings": [{"name": "x", "step": 1, "severity": "note", "says": "S.", "try_": "T."}],
        }
    }
    return SimpleNamespace(recipe=recipe, needs={"sft": folder}, facts=facts, folder=folder, progress=Notes())


@pytest.fixture(scope="module")
def questions():
    return exam_questions(work(None).recipe, 10)


def test_prompts_are_neither_practised_nor_of_the_exam(tmp_path, questions):
    made = CardMaker(work(tmp_path, rl=RL), questions)
    asked = {prompt.messages[-1].content for prompt in made.prompts}
    assert len(asked) > 20
    assert asked.isdisjoint(question.messages[-1].content for question in questions)
    assert asked.isdisjoint(prompt.messages[-1].content for prompt in load_prompts(made.work.recipe.rl.sources))


def test_a_card_from_two_models_says_who_was_right(tmp_path, questions):
    given = work(tmp_path, rl=RL, sft={"sources": [dict(WORLD)], "system_prompt": "Be right."})
    made = CardMaker(given, questions)
    right = {p.messages[-1].content: p.columns["answer"] for p in made.prompts}
    right |= {question.messages[-1].content: question.answer for question in questions}
    models = {"sft": Answers(lambda said: "Hm."), "rl": Answers(lambda said: right[said[-1].content])}
    exams = {}
    for stage, chat in models.items():
        made.ask(stage, chat)
        exams[stage] = ExamAnswers.of(questions, run_exam(chat, questions, progress=SilentProgress()))
    made.ask("pretrain", models["sft"])  # it only continues text
    facts = made.finish(exams, Evaluation())
    card = read_card(tmp_path / "alignment.json")
    assert card.stages == ["sft", "rl"]
    assert card.row("reward.world", "sft").score.value == 0
    assert card.row("reward", "rl").score.value == 1
    assert card.row("reward", "rl").direction == "better"
    assert card.row("win_rate", "rl").score.value == 1
    assert [one.name for one in card.findings] == ["x"]
    assert facts["alignment"]["against"] == "sft"
    assert models["rl"].asked[0][0] == "Be right."
    assert "win rate" in given.progress.told[-1]


def test_a_judge_of_the_recipe_decides_instead(tmp_path, questions, monkeypatch):
    """It finds the longer answer better, and so shows each pair in both orders."""

    def verdict(said):
        first, second = (said[-1].content.partition(f"assistant {name}\n")[2].partition("===")[0] for name in "AB")
        return f"Look: [[{'A' if len(first) > len(second) else 'B'}]]"

    judge = Answers(verdict)
    monkeypatch.setattr(registry.LocalChat, "load", lambda folder: judge)
    given = work(tmp_path, rl=RL, evaluate={"exam_questions": 10, "judge": {"model": "wise"}})
    made = CardMaker(given, questions)
    made.ask("sft", Answers(lambda said: "Yes, this is so and nothing else."))
    made.ask("rl", Answers(lambda said: "No."))
    made.finish({}, Evaluation())
    card = read_card(tmp_path / "alignment.json")
    assert card.judge == "the judge wise"
    assert card.row("win_rate", "rl").score.value == 0
    assert len(judge.asked) == 2 * len(made.prompts)


def test_a_build_that_learned_from_conversations_alone_has_no_card(tmp_path, questions):
    given = work(tmp_path)
    assert not wants_card(given.recipe)
    made = CardMaker(given, questions)
    silent = Answers(lambda said: "x")
    made.ask("sft", silent)
    assert made.finish({}, Evaluation()) == {}
    assert silent.asked == []
    assert not list(tmp_path.iterdir())
