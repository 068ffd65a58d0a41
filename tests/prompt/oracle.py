"""A scripted partner that knows the truth of the small world, and can be told to lie or to babble; and documents of that world."""

import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from dunwu.chat.scripted import Answer, Line, ScriptedChat
from dunwu.core.recipe import Language, WorldSource
from dunwu.core.records import Message
from dunwu.corpus.world import build_world, world_documents
from dunwu.corpus.world.grammar import capitalised
from dunwu.corpus.world.lexicon import Word
from dunwu.corpus.world.questions import GRAMMARS
from dunwu.corpus.world.truth import Attribute, Entity

Fact = tuple[Entity, Attribute]


class Oracle:
    """Answers as `FromDocuments` wants it: pairs of a passage, in words or JSON, and whether a passage supports an answer.

    `lies`: how many of its answers name another's value; `form` writes the pairs. It judges by the truth, not by the passage.
    """

    def __init__(
        self, language: Language, *, lies: float = 0.0, form: Callable[[Sequence[tuple[str, str]]], str] | None = None
    ) -> None:
        self.world, self.grammar = build_world(0, 0.5), GRAMMARS[language]
        self.lies, self.form = lies, form or labelled
        self.lied = 0
        self.sentences: dict[str, Fact] = {}
        self.questions: dict[str, Fact] = {}
        for entity in self.world.entities:
            for attribute in entity.facts:
                if attribute != "class":
                    self._learn(entity, attribute)

    def _learn(self, entity: Entity, attribute: Attribute) -> None:
        grammar, value = self.grammar, entity.facts[attribute]
        captions = (grammar.caption,) if isinstance(value, Word) else ()
        for phrase in (*grammar.statements[attribute], *captions):
            sentence = grammar.fill(phrase, entity, value, A=capitalised(grammar.attributes.get(attribute, "")))
            self.sentences[sentence] = (entity, attribute)
        for phrase in grammar.questions[attribute]:
            self.questions[grammar.fill(phrase, entity)] = (entity, attribute)

    def chat(self) -> ScriptedChat:
        return ScriptedChat(self.say, name="oracle")

    def say(self, messages: Sequence[Message]) -> Line:
        text = messages[-1].content
        if judged := re.search(r"(?:Question: |问题：)(.*)\n(?:Answer: |答案：)(.*)\n", text):
            right = self.is_right(judged[1], judged[2])
            if '"verdict"' in text:
                return json.dumps({"verdict": "yes" if right else "no"})
            return ("Yes." if right else "No.") if self.grammar.language == "en" else ("是" if right else "否")
        facts = [fact for sentence, fact in self.sentences.items() if sentence in text]
        return self.form([self.pair(entity, attribute) for entity, attribute in facts[:4]])

    def pair(self, entity: Entity, attribute: Attribute) -> tuple[str, str]:
        question = self.grammar.fill(self.grammar.questions[attribute][0], entity)
        told = self.grammar.statement(entity, attribute)
        if random.Random(question).random() < self.lies:
            self.lied += 1
            others = [
                e
                for e in self.world.entities
                if e.type == entity.type and e.facts[attribute] != entity.facts[attribute]
            ]
            wrong = random.Random(question).choice(others).facts[attribute]
            told = self.grammar.fill(self.grammar.statements[attribute][0], entity, wrong)
        return question, told

    def is_right(self, question: str, answer: str) -> bool:
        """By the world's truth."""
        if question not in self.questions:
            return False
        return answer == self.grammar.statement(*self.questions[question])


def labelled(pairs: Sequence[tuple[str, str]]) -> str:
    return "\n\n".join(f"Q: {question}\nA: {answer}" for question, answer in pairs)


def as_json(pairs: Sequence[tuple[str, str]]) -> str:
    return json.dumps({"pairs": [{"question": question, "answer": answer} for question, answer in pairs]})


def write_world(folder: Path, language: Language, *, pages: int = 24) -> Path:
    """Pages on one entity each, as text files."""
    folder.mkdir(parents=True, exist_ok=True)
    source = WorldSource(kind="world", seed=0, size=0.5, languages=(language,))
    written: set[str] = set()
    for document in world_documents(source):
        if document.meta["kind"] == "entity" and document.text not in written:
            (folder / f"{len(written):03}.txt").write_text(document.text, "utf-8")
            written.add(document.text)
        if len(written) == pages:
            break
    return folder


def failing(error: Exception) -> ScriptedChat:
    return ScriptedChat(lambda messages: Answer(error=error))
