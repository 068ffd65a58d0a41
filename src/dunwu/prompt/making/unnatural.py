"""Unnatural Instructions, arXiv:2212.09689: three tasks with input and constraints are shown, the model writes a fourth.

After 2.1: the example is drawn with nucleus sampling at 0.99, its output is the likeliest answer to instruction, input and constraints
together; examples without one of the three, copies of those shown and repetitions go. After 2.3, where wanted: other ways to say the
instruction. Here, unlike there: likeness is judged by ROUGE-L too, as in Self-Instruct.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dunwu.core.errors import RecipeError
from dunwu.core.lineage import stable_hash
from dunwu.prompt.making.asking import Reply, Request
from dunwu.prompt.making.how import Asks, How, list_schema, origin, text_schema
from dunwu.prompt.making.parsing import Record, items, labelled, objects, strings, unquoted
from dunwu.prompt.making.rules import Candidate, Method
from dunwu.prompt.making.seeds import Seed, Seeds
from dunwu.prompt.making.self_instruct import is_nothing
from dunwu.prompt.making.sieve import Sieve
from dunwu.prompt.making.wording import filled

SHOWN = 3
PROMPTS_A_ROUND = 8
NUCLEUS = 0.99
INVENTING = 1.0  # temperature
_FIELDS = ("instruction", "input", "constraints")
_EXAMPLE = text_schema(*_FIELDS)
_WAYS = list_schema("tasks", {"type": "string"})


@dataclass(frozen=True, kw_only=True)
class Unnatural:
    """Goes on for as long as it is asked to. `paraphrases`: other ways to say each instruction, each a row with the same answer."""

    seeds: Seeds
    how: How
    paraphrases: int = 0
    seed: int = 0
    method: Method = "unnatural"

    def __post_init__(self) -> None:
        if not 0 <= self.paraphrases <= 8:
            raise RecipeError(f"paraphrases={self.paraphrases}; use 0 to 8")

    @property
    def inputs(self) -> Mapping[str, Any]:
        texts = [[one.instruction, one.input, one.constraints] for one in self.seeds.seeds]
        return {"seeds": stable_hash(texts), "paraphrases": self.paraphrases}

    def rounds(self, asker: Asks, sieve: Sieve) -> Iterator[list[Candidate]]:
        chance = random.Random(f"unnatural {self.seed}")
        sieve.know([(one.whole, None) for one in self.seeds.seeds])
        while True:
            shown = [chance.sample(self.seeds.seeds, SHOWN) for _ in range(PROMPTS_A_ROUND)]
            examples = self._examples(shown, asker, sieve)
            answered = list(self._answered(examples, asker))
            ways = self._ways([record for record, _ in answered], asker)
            yield [
                row
                for (record, candidate), others in zip(answered, ways, strict=True)
                for row in self._rows(record, candidate, others)
                if sieve.takes(row, question_is_known=True)
            ]

    def _examples(self, shown: Sequence[Sequence[Seed]], asker: Asks, sieve: Sieve) -> list[tuple[Record, Candidate]]:
        """New tasks that are worth an answer."""
        found: list[tuple[Record, Candidate]] = []
        for seeds, reply in zip(shown, asker.ask([self._request(seeds) for seeds in shown]), strict=True):
            if reply is None:
                continue
            record = self._read(reply)
            if record is None:
                sieve.count(
                    "unreadable_reply" if reply.finished else "cut_off", answer=reply.text, source=reply.request
                )
                continue
            parents = [seed.source for seed in seeds]
            candidate = Candidate(
                question=self._whole(record, with_constraints=False),
                language=self.how.language,
                provenance={"parents": parents, "example": reply.request, "request": reply.request},
            )
            if sieve.takes_new_question(candidate):
                found.append((record, candidate))
        return found

    def _request(self, seeds: Sequence[Seed]) -> Request:
        words = self.how.words
        examples = [
            filled(
                words.example,
                number=place,
                instruction=seed.instruction,
                input=seed.input or words.nothing,
                constraints=seed.constraints or words.nothing,
            )
            for place, seed in enumerate(seeds, 1)
        ]
        return self.how.request(
            "another",
            words.another,
            form="another",
            schema=_EXAMPLE,
            temperature=INVENTING,
            top_p=NUCLEUS,
            examples="\n\n".join(examples),
            number=len(seeds) + 1,
        )

    def _read(self, reply: Reply) -> Record | None:
        """The first whole example; None where a field is missing, or the answer was cut."""
        found = objects(reply.text, _FIELDS)
        if not found and reply.finished:
            found = labelled(reply.text, {name: self.how.words.labels[name] for name in _FIELDS})
        if not found:
            return None
        return {
            name: "" if name != "instruction" and is_nothing(found[0][name]) else unquoted(found[0][name])
            for name in _FIELDS
        }

    def _whole(self, record: Record, *, with_constraints: bool = True) -> str:
        parts = (record["instruction"], record["input"], record["constraints"] if with_constraints else "")
        return "\n\n".join(part for part in parts if part)

    def _answered(
        self, examples: Sequence[tuple[Record, Candidate]], asker: Asks
    ) -> Iterator[tuple[Record, Candidate]]:
        replies = asker.ask([self._output_request(record) for record, _ in examples]) if examples else []
        for (record, candidate), reply in zip(examples, replies, strict=True):
            if reply is None:
                continue
            provenance = origin(
                reply, method=self.method, **{k: v for k, v in candidate.provenance.items() if k != "request"}
            )
            yield (
                record,
                Candidate(
                    question=self._whole(record),
                    answer=reply.text,
                    language=self.how.language,
                    finished=reply.finished,
                    family=reply.request,
                    provenance=provenance,
                ),
            )

    def _output_request(self, record: Record) -> Request:
        return self.how.request("output", "$task", task=self._whole(record))

    def _ways(self, records: Sequence[Record], asker: Asks) -> list[list[str]]:
        """Other ways to say each instruction."""
        if not self.paraphrases or not records:
            return [[] for _ in records]
        replies = asker.ask(
            [
                self.how.request(
                    "paraphrase",
                    self.how.words.paraphrase,
                    form="tasks",
                    schema=_WAYS,
                    temperature=INVENTING,
                    instruction=record["instruction"],
                    count=self.paraphrases,
                    number=1,
                )
                for record in records
            ]
        )
        return [self._said(reply) if reply is not None else [] for reply in replies]

    def _said(self, reply: Reply) -> list[str]:
        found = strings(reply.text, "tasks") or items(reply.text)
        return [unquoted(one) for one in found if one][: self.paraphrases]

    def _rows(self, record: Record, asked: Candidate, others: Sequence[str]) -> Iterator[Candidate]:
        yield asked
        for number, text in enumerate(dict.fromkeys(others), 1):
            if text == record["instruction"]:
                continue
            yield Candidate(
                question=self._whole({**record, "instruction": text}),
                answer=asked.answer,
                language=asked.language,
                finished=asked.finished,
                family=asked.family,
                provenance={**asked.provenance, "paraphrase": number},
            )
