"""Self-Instruct, arXiv:2212.10560: tasks like a few given ones, and for each an input and an output.

After 2.2: each prompt shows eight tasks, six from the seeds and two that were made; is the new task a classification? Then its labels
come before their inputs, otherwise the input before the output. Here, unlike there: tasks and instances take turns in small rounds, so
that rows come from the beginning; the model is spoken to in a chat, without examples of the last two steps; temperature is 0.7 without
the source's presence penalty of 2, which chat models take badly.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dunwu.core.lineage import stable_hash
from dunwu.prompt.making.asking import Reply, Request
from dunwu.prompt.making.how import Asks, How, list_schema, origin, said_yes, text_schema
from dunwu.prompt.making.parsing import items, labelled, objects, strings, unquoted
from dunwu.prompt.making.rules import Candidate, Method
from dunwu.prompt.making.seeds import Seed, Seeds
from dunwu.prompt.making.sieve import Sieve
from dunwu.prompt.making.wording import filled

SEEDS_SHOWN, MADE_SHOWN = 6, 2
TASKS_A_PROMPT = 8
PROMPTS_A_ROUND = 2
MOST_INSTANCES = 4  # of one task: labels
INVENTING = 0.7  # temperature
_TASKS = list_schema("tasks", {"type": "string"})
_INSTANCES = list_schema("instances", text_schema("input", "output"))


@dataclass(frozen=True, slots=True)
class Task:
    """A task that was made: its words, where it comes from, and the sources of those that were shown for it."""

    text: str
    reply: Reply
    parents: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SelfInstruct:
    """Goes on for as long as it is asked to."""

    seeds: Seeds
    how: How
    seed: int = 0
    method: Method = "self-instruct"

    @property
    def inputs(self) -> Mapping[str, Any]:
        return {"seeds": stable_hash([one.whole for one in self.seeds.seeds])}

    def rounds(self, asker: Asks, sieve: Sieve) -> Iterator[list[Candidate]]:
        chance = random.Random(f"self-instruct {self.seed}")
        sieve.know([(one.instruction, None) for one in self.seeds.seeds])
        made: list[Task] = []
        while True:
            tasks = self._new_tasks(made, asker, sieve, chance)
            made += tasks
            instances = self._instances(tasks, asker, sieve)
            yield [candidate for candidate in instances if sieve.takes(candidate, question_is_known=True)]

    def _new_tasks(self, made: Sequence[Task], asker: Asks, sieve: Sieve, chance: random.Random) -> list[Task]:
        shown = [self._shown(made, chance) for _ in range(PROMPTS_A_ROUND)]
        replies = asker.ask([self._tasks_request([text for text, _ in examples]) for examples in shown])
        found: list[Task] = []
        for examples, reply in zip(shown, replies, strict=True):
            if reply is None:
                continue
            texts = read_tasks(reply)
            if not texts:
                sieve.count("unreadable_reply", answer=reply.text, source=reply.request)
            for text in texts[:TASKS_A_PROMPT]:
                candidate = Candidate(question=text, language=self.how.language, provenance={"request": reply.request})
                if sieve.takes_new_question(candidate):
                    found.append(Task(text, reply, tuple(source for _, source in examples)))
        return found

    def _shown(self, made: Sequence[Task], chance: random.Random) -> list[tuple[str, str]]:
        """(text, source) of the examples in one prompt."""
        machine = chance.sample(list(made), min(MADE_SHOWN, len(made)))
        count = min(SEEDS_SHOWN + MADE_SHOWN - len(machine), len(self.seeds.seeds))
        human: list[Seed] = chance.sample(list(self.seeds.seeds), count)
        examples = [(one.instruction, one.source) for one in human] + [(one.text, one.reply.request) for one in machine]
        chance.shuffle(examples)
        return examples

    def _tasks_request(self, shown: Sequence[str]) -> Request:
        words = self.how.words
        listed = "\n".join(filled(words.task, number=place, task=text) for place, text in enumerate(shown, 1))
        return self.how.request(
            "tasks",
            words.tasks,
            form="tasks",
            schema=_TASKS,
            temperature=INVENTING,
            tasks=listed,
            number=len(shown) + 1,
            count=TASKS_A_PROMPT,
        )

    def _instances(self, tasks: Sequence[Task], asker: Asks, sieve: Sieve) -> Iterator[Candidate]:
        if not tasks:
            return
        words = self.how.words
        labels = asker.ask(
            [self.how.verdict("is_classification", words.is_classification, task=task.text) for task in tasks]
        )
        templates = [words.labelled_instances if said_yes(reply) else words.instances for reply in labels]
        replies = asker.ask(
            [
                self.how.request("instances", template, form="instances", schema=_INSTANCES, task=task.text)
                for task, template in zip(tasks, templates, strict=True)
            ]
        )
        for task, reply in zip(tasks, replies, strict=True):
            if reply is not None:
                yield from self._candidates(task, reply, sieve)

    def _candidates(self, task: Task, reply: Reply, sieve: Sieve) -> Iterator[Candidate]:
        found = objects(reply.text, ["input", "output"])
        whole = bool(found)
        found = found or labelled(reply.text, {name: self.how.words.labels[name] for name in ("input", "output")})
        if not found:
            sieve.count("unreadable_reply", task.text, reply.text, reply.request)
        given: set[str] = set()
        for number, instance in enumerate(found[:MOST_INSTANCES], 1):
            text = "" if is_nothing(instance["input"]) else unquoted(instance["input"])
            if text in given:  # the same input with another output: 2.2 drops these
                sieve.count("same_input_again", text, instance["output"], reply.request)
                continue
            given.add(text)
            yield Candidate(
                question="\n\n".join(part for part in (task.text, text) if part),
                answer=unquoted(instance["output"]),
                language=self.how.language,
                finished=whole or reply.finished or number < len(found),
                family=reply.request,
                provenance=origin(
                    reply, method=self.method, parents=list(task.parents), task=task.reply.request, instance=number
                ),
            )


def read_tasks(reply: Reply) -> list[str]:
    """The tasks in what a model wrote; where it was cut, without the last."""
    listed = strings(reply.text, "tasks")
    if listed:
        return [unquoted(one) for one in listed if one]
    found = items(reply.text)
    return found if reply.finished else found[:-1]


def is_nothing(text: str) -> bool:
    """Whether this is how a model says that there is nothing here."""
    return text.strip().strip("<>[]().。*\"'").lower() in (
        "",
        "none",
        "n/a",
        "na",
        "no input",
        "noinput",
        "null",
        "无",
        "没有",
        "无输入",
    )
