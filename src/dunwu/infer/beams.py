"""Beam search in the engine: each beam is a sequence; a round is over once all of a request's beams have been read.

`beam.py` says which go on. Beams that grow from one share its blocks until they write (`BlockManager.fork`).

Shapes: `R` rows, `V` vocabulary.
"""

import dataclasses

from torch import Tensor

from dunwu.infer.beam import Beam, Finished, order_of_blocks
from dunwu.infer.choosing import FAULTS, Head, Turn
from dunwu.infer.events import Event, TokenEvent
from dunwu.infer.sampling import History, Scored, processed
from dunwu.infer.texts import Group, Text, Texts
from dunwu.infer.writer import Writer
from dunwu.tokenizer.like import TokenizerLike


def search(
    turns: list[Turn], hidden_ND: Tensor, head: Head, texts: Texts, tokenizer: TokenizerLike, events: list[Event]
) -> None:
    """Note what may follow each beam, and begin the next round of each request that has all its beams together."""
    for turn in turns:
        text = turn.text
        if text.sequence not in texts.of:
            continue  # another beam of its request failed
        try:
            text.likeliest = _likeliest(text, head(hidden_ND[turn.row : turn.row + 1]))
        except FAULTS as error:
            texts.end(text.group, "error", events, str(error))
    for group in {turn.text.group: None for turn in turns}:
        if group.alive and all(text.likeliest is not None for text in group.alive):
            _advance(group, texts, tokenizer, events)


def _likeliest(text: Text, logits_1V: Tensor) -> list[Scored]:
    """The next tokens that a search needs, the likeliest first. Penalties, bias and grammar act on log-probabilities."""
    search = text.group.search
    assert search is not None
    masks = {} if text.matcher is None else {0: text.matcher.mask()}
    past = History(text.sequence.request.prompt_ids, text.sequence.written)
    logprobs_1V = logits_1V.float().log_softmax(-1)
    logprobs_V = processed(logprobs_1V, [text.group.params], [past], masks)[0]
    top_W = logprobs_V.topk(min(search.wanted, len(logprobs_V)))
    return [Scored(*pair) for pair in zip(top_W.indices.tolist(), top_W.values.tolist(), strict=True)]


def _advance(group: Group, texts: Texts, tokenizer: TokenizerLike, events: list[Event]) -> None:
    assert group.search is not None
    before = list(group.alive)
    group_search = group.search
    beams = group_search.advance([text.likeliest or [] for text in before])
    if group_search.done:
        _say(group, texts, tokenizer, events)
        return
    try:
        _grow(group, before, beams, texts)
    except FAULTS as error:
        texts.end(group, "error", events, str(error))


def _grow(group: Group, before: list[Text], beams: list[Beam], texts: Texts) -> None:
    """The first beam that grows from a text goes on in it; others fork off. `group.alive` comes in the order of the beams."""
    heirs: dict[int, Text] = {}
    grown = order_of_blocks(len(before), beams)
    for parent, places in grown.items():
        if not places:
            texts.drop(before[parent])
    for parent, places in grown.items():
        if not places:
            continue
        text = before[parent]
        twins = [_twin(text) for _ in places[1:]]
        texts.scheduler.fork(text.sequence, [twin.sequence for twin in twins])
        texts.of.update((twin.sequence, twin) for twin in twins)
        heirs.update(zip(places, [text, *twins], strict=True))
    group.alive = [heirs[place] for place in range(len(beams))]
    for text, beam in zip(group.alive, beams, strict=True):
        text.likeliest = None
        text.sequence.ids.append(beam.ids[-1])
        text.sequence.room -= 1
        if text.matcher is not None:
            text.matcher.accept(beam.ids[-1])


def _twin(text: Text) -> Text:
    sequence = dataclasses.replace(
        text.sequence, ids=list(text.sequence.ids), state="new", computed=0, table=None, rank=None, preemptions=0
    )
    return dataclasses.replace(text, sequence=sequence, matcher=None if text.matcher is None else text.matcher.copy())


def _say(group: Group, texts: Texts, tokenizer: TokenizerLike, events: list[Event]) -> None:
    """The best completions, the best first, all at once."""
    assert group.search is not None
    text = group.alive[0]
    found: list[Finished | None] = [*group.search.best(group.params.n)]
    for index, one in enumerate(found + [None] * (group.params.n - len(found))):
        text.sequence.index = index
        if one is None:
            fault = f"the search found only {len(found)} completions; ask for fewer, or loosen the grammar"
            texts.say_end(text, "error", "", events, error=fault, completion_tokens=0)
            continue
        writer = Writer(tokenizer, after=group.request.prompt_ids)
        for number in one.ids:
            shown, _ = writer.push(number)
            events.append(TokenEvent(id=group.request.id, index=index, token_id=number, text=shown))
        texts.written_tokens += len(one.ids)
        reason = "stop" if one.stopped else text.sequence.out_of_room
        texts.say_end(text, reason, writer.finish()[0], events, completion_tokens=len(one.ids), score=one.score)
    texts.forget(group)
