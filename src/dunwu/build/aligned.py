"""The alignment card of a build that learned from judgements: what its models are asked for it, and where it lies."""

from collections.abc import Mapping, Sequence
from typing import Any

from dunwu.align.card.asking import ModelAnswers, ask_model, spread
from dunwu.align.card.making import CardParts, make_card
from dunwu.align.card.markdown import card_lines
from dunwu.align.card.record import AlignmentCard, card_facts, write_card
from dunwu.align.card.winning import RIVAL, Judge, by_judge
from dunwu.align.doctor.finding import Finding
from dunwu.align.rewards import make_reward
from dunwu.build.graph import Work
from dunwu.chat.protocol import Chat
from dunwu.core.recipe import Recipe
from dunwu.core.records import Message
from dunwu.corpus.prompts import Prompt, load_prompt_sets
from dunwu.corpus.world import Question
from dunwu.evaluate.results import Evaluation, ExamAnswers
from dunwu.evaluate.scorers.base import WeightedSum

CARD_FILE = "alignment.json"
PROMPTS = 96
CARD_STAGES = ("base", "sft", "prefer", "rl")
"""Those whose models answer, in their order."""


def wants_card(recipe: Recipe) -> bool:
    """Whether the build learns from judgements."""
    return bool(recipe.prefer.sources or recipe.rl.sources)


class CardMaker:
    """Asks one model after the other, and then makes the card of them. `questions`: the exam's; `otherwise`: what is asked where
    there are neither prompts to learn by reward nor an exam."""

    def __init__(self, work: Work, questions: Sequence[Question], otherwise: Sequence[str] = ()) -> None:
        self.work, self.questions = work, questions
        self.wanted = wants_card(work.recipe)
        self.prompts = self._prompts(otherwise) if self.wanted else []
        self.reward = self._reward() if self.wanted else None
        self.answers: dict[str, ModelAnswers] = {}

    def ask(self, stage: str, chat: Chat) -> None:
        """Have a model answer, if its answers belong on the card."""
        if not self.wanted or stage not in CARD_STAGES or not self.prompts:
            return
        facts = self.work.facts.get("rl", {})
        limit = {"max_tokens": facts["answer_tokens"]} if "answer_tokens" in facts else {}
        self.answers[stage] = ask_model(
            chat,
            self.prompts,
            progress=self.work.progress,
            reward=self.reward,
            system=_system_prompt(self.work),
            seed=self.work.recipe.seed,
            **limit,
        )

    def finish(self, exams: Mapping[str, ExamAnswers], evaluation: Evaluation) -> dict[str, Any]:
        """Write the card and say it; returns the stage's facts of it, none where there is no card."""
        if not self.answers:
            return {}
        card = make_card(
            CardParts(
                answers=self.answers,
                against=_against(self.answers),
                questions=self.questions,
                exams={stage: exam for stage, exam in exams.items() if stage in self.answers},
                evaluation=evaluation,
                judge=self._judge(),
                judge_name=self._judge_name(),
                findings=findings_of(self.work.facts),
            )
        )
        write_card(self.work.folder / CARD_FILE, card)
        self._say(card)
        return {"alignment": card_facts(card)}

    def _say(self, card: AlignmentCard) -> None:
        self.work.progress.note("\n".join(card_lines(card)))

    def _prompts(self, otherwise: Sequence[str]) -> list[Prompt]:
        """Those that were kept out of learning by reward; else the exam's; else what is given."""
        recipe = self.work.recipe
        if recipe.rl.sources:
            sets = load_prompt_sets(recipe.rl.sources, exam_questions=recipe.evaluate.exam_questions)
            return spread(list(sets.held_out), PROMPTS)
        if self.questions:
            return [Prompt(question.messages, {}, "exam") for question in spread(list(self.questions), PROMPTS)]
        asked = [(Message(role="user", content=text),) for text in spread(list(dict.fromkeys(otherwise)), PROMPTS)]
        return [Prompt(messages, {}, "kept out") for messages in asked]

    def _reward(self) -> WeightedSum | None:
        recipe = self.work.recipe
        if not (recipe.rl.sources and recipe.rl.rewards):
            return None
        return make_reward(recipe.rl.rewards, reward_model=self.work.needs.get("reward"))

    def _judge(self) -> Judge | None:
        asked = self.work.recipe.evaluate.judge
        if asked is None:
            return None
        ((_, scorer),) = make_reward([asked.model_copy(update={"mode": "pairwise", "reference": RIVAL})]).parts
        return by_judge(scorer)

    def _judge_name(self) -> str:
        asked = self.work.recipe.evaluate.judge
        return "" if asked is None else f"the judge {asked.model or asked.url}"


def findings_of(facts: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """What the doctor found in the build's run of reinforcement learning."""
    return [Finding(**finding) for finding in facts.get("rl", {}).get("findings", ())]


def _against(answers: Mapping[str, ModelAnswers]) -> str:
    """The model that learned from conversations alone, or the first."""
    return "sft" if "sft" in answers else next(iter(answers))


def _system_prompt(work: Work) -> str:
    """What the models were tuned to: the recipe's, or else their base's."""
    of_base = {} if "sft" in work.needs else work.facts.get("base", {})
    return work.recipe.sft.system_prompt or of_base.get("system_prompt", "")
