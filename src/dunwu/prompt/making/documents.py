"""Questions and answers on a user's own documents, each from one passage, which has to support its answer."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from dunwu.core.lineage import stable_hash
from dunwu.prompt.making.asking import Reply, Request
from dunwu.prompt.making.how import Asks, How, list_schema, origin, said_yes, text_schema
from dunwu.prompt.making.parsing import Record, labelled, objects, unquoted
from dunwu.prompt.making.passages import Passage, Passages
from dunwu.prompt.making.rules import Candidate, Method
from dunwu.prompt.making.sieve import Sieve
from dunwu.prompt.making.wording import filled

Check = Literal["both", "words", "model", "none"]
PASSAGES_A_ROUND = 8
TOKENS_A_PAIR = 160
INVENTING = 0.7  # temperature
_SCHEMA = list_schema("pairs", text_schema("question", "answer"))
_WITH_PASSAGE = "$passage\n\n$question"


@dataclass(frozen=True, kw_only=True)
class FromDocuments:
    """`pairs`: how many are asked of each passage. `check`: how an answer must be supported by its passage: by the words in it, by the
    model's second look, or both. `with_passage`: the user's turn holds the passage too, for learning to read rather than to know."""

    passages: Passages
    how: How
    pairs: int = 3
    check: Check = "both"
    with_passage: bool = False
    method: Method = "qa"

    @property
    def inputs(self) -> Mapping[str, Any]:
        return {
            "passages": stable_hash([passage.text for passage in self.passages.passages]),
            "pairs": self.pairs,
            "check": self.check,
            "with_passage": self.with_passage,
        }

    def rounds(self, asker: Asks, sieve: Sieve) -> Iterator[list[Candidate]]:
        """Each passage once."""
        waiting = iter(self.passages.passages)
        while chosen := list(islice(waiting, PASSAGES_A_ROUND)):
            replies = asker.ask([self._request(passage) for passage in chosen])
            made = [
                candidate
                for passage, reply in zip(chosen, replies, strict=True)
                if reply is not None
                for candidate in self._candidates(passage, reply, sieve)
            ]
            yield [candidate for candidate in self._supported(made, asker, sieve) if sieve.takes(candidate)]

    def _request(self, passage: Passage) -> Request:
        return self.how.request(
            "pairs",
            self.how.words.pairs,
            form="pairs",
            schema=_SCHEMA,
            tokens=min(self.how.answer_tokens, TOKENS_A_PAIR * self.pairs),
            temperature=INVENTING,
            count=self.pairs,
            passage=passage.text,
        )

    def _candidates(self, passage: Passage, reply: Reply, sieve: Sieve) -> Iterator[Candidate]:
        """The pairs of one answer that pass the rules by themselves; the last one of an answer that was cut has not ended."""
        pairs, whole = read_pairs(reply.text, self.how.words.labels)
        if not pairs:
            sieve.count("unreadable_reply", answer=reply.text, source=reply.request)
        for number, pair in enumerate(pairs, 1):
            question, answer = unquoted(pair["question"]), unquoted(pair["answer"])
            shown = filled(_WITH_PASSAGE, passage=passage.text, question=question) if self.with_passage else ""
            place = {"start": passage.start, "end": passage.end} | ({"page": passage.page} if passage.page else {})
            candidate = Candidate(
                question=question,
                answer=answer,
                language=self.how.language,
                finished=whole or reply.finished or number < len(pairs),
                passage=passage.text if self.check in ("words", "both") else "",
                shown=shown,
                provenance=origin(
                    reply, method=self.method, document=passage.document, place=place, passage=passage.hash
                ),
            )
            if not sieve.takes_question(candidate):
                continue
            if (fault := sieve.answer_fault(candidate)) is not None:
                sieve.drop(fault, candidate)
                continue
            yield candidate

    def _supported(self, made: Sequence[Candidate], asker: Asks, sieve: Sieve) -> Iterator[Candidate]:
        """Those that the model, asked again, calls supported. Where no second look came, a pair isn't kept: nobody vouched for it."""
        if self.check not in ("model", "both") or not made:
            yield from made
            return
        texts = {passage.hash: passage.text for passage in self.passages.passages}
        looks = asker.ask(
            [
                self.how.verdict(
                    "supported",
                    self.how.words.supported,
                    passage=texts[str(candidate.provenance["passage"])],
                    question=candidate.question,
                    answer=candidate.answer,
                )
                for candidate in made
            ]
        )
        for candidate, reply in zip(made, looks, strict=True):
            if said_yes(reply):
                yield candidate
            elif reply is not None:
                sieve.drop("not_supported", candidate)


def read_pairs(text: str, labels: Mapping[str, Sequence[str]]) -> tuple[list[Record], bool]:
    """The questions and answers in what a model wrote: JSON, whole or half, or labels. And whether the last one surely ends."""
    for question, answer in (("question", "answer"), ("q", "a")):
        if found := objects(text, [question, answer]):
            return [{"question": pair[question], "answer": pair[answer]} for pair in found], True
    return labelled(text, {"question": labels["question"], "answer": labels["answer"]}), False
