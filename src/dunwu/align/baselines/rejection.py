"""Rejection sampling: answers are drawn, the good ones kept, and written as conversations that fine-tuning learns from.

What is drawn is a pure function of the model, the prompts, the reward and the specification, and lies on disk batch by batch: a run
that was killed draws only what is missing. Answers that did not end by themselves are never kept, nor is one of a prompt whose
answers all scored alike, unless a threshold says what is good: nothing tells them apart.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dunwu.align.baselines.best_of_n import Answering, Drawing, Drawn, draw
from dunwu.core.errors import DataError
from dunwu.core.files import atomic_write, read_json, write_json
from dunwu.core.lineage import stable_hash
from dunwu.core.progress import Progress, SilentProgress
from dunwu.core.records import Completion
from dunwu.core.rejection import RejectionSpec
from dunwu.corpus.prompts import Prompt, said_in
from dunwu.evaluate.scorers.base import WeightedSum
from dunwu.evaluate.scorers.summary import TOTAL

PROMPTS_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class Sifted:
    """`file`: of the conversations that were kept. `kept` of `drawn` answers to `prompts`; `alike`: prompts of which none was kept
    as all scored alike; `mean`: of all totals."""

    file: Path
    prompts: int
    drawn: int
    kept: int
    alike: int
    mean: float


def sift(
    chat: Answering,
    prompts: Sequence[Prompt],
    reward: WeightedSum,
    spec: RejectionSpec,
    folder: Path,
    *,
    origin: Mapping[str, Any],
    progress: Progress,
) -> Sifted:
    """Draw, keep and write `folder/kept.jsonl`. `origin`: what names model and reward; what was drawn from others is drawn anew.

    Raises DataError where nothing is kept: there would be nothing to learn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    asked = stable_hash([[said_in(prompt.messages), prompt.source] for prompt in prompts])
    _require_same(
        folder, {**origin, "rejection": spec.model_dump(mode="json", exclude={"at_least", "most"}), "prompts": asked}
    )
    drawn = [one for batch in _batches(chat, prompts, reward, spec, folder, progress) for one in batch]
    file = folder / "kept.jsonl"
    rows = [row for one in drawn for row in _kept(one, spec)]
    totals = [total for one in drawn for total in one.totals]
    if not rows:
        raise DataError(
            f"none of {len(totals):,} answers is kept (the best total is {max(totals):g}): "
            + (
                f"lower rejection.at_least={spec.at_least:g}, draw more with rejection.n, or tune the model first"
                if spec.at_least is not None
                else "the answers to each prompt scored alike, or did not end; draw more with rejection.n, give "
                "rejection.at_least, or tune the model first"
            )
        )
    with atomic_write(file) as written:
        written.writelines(_line(row) for row in rows)
    return Sifted(
        file=file,
        prompts=len(drawn),
        drawn=len(totals),
        kept=len(rows),
        alike=sum(min(one.totals) == max(one.totals) for one in drawn),
        mean=math.fsum(totals) / len(totals),
    )


def keepers(drawn: Drawn, spec: RejectionSpec) -> list[int]:
    """The places of the answers that are kept, the best first: different ones that ended by themselves."""
    if spec.at_least is None and min(drawn.totals) == max(drawn.totals):
        return []
    least = max(drawn.totals) if spec.at_least is None else spec.at_least
    found: dict[str, int] = {}
    for place in drawn.ranked():
        completion = drawn.completions[place]
        good = drawn.totals[place] >= least and completion.finish_reason == "stop" and completion.text.strip()
        if good and len(found) < spec.most:
            found.setdefault(completion.text.strip(), place)
    return list(found.values())


def _batches(
    chat: Answering,
    prompts: Sequence[Prompt],
    reward: WeightedSum,
    spec: RejectionSpec,
    folder: Path,
    progress: Progress,
) -> Iterator[list[Drawn]]:
    for number, first in enumerate(range(0, len(prompts), PROMPTS_AT_ONCE)):
        batch = prompts[first : first + PROMPTS_AT_ONCE]
        file = folder / f"drawn-{number:05}.jsonl"
        if not file.is_file():
            how = Drawing(
                n=spec.n,
                max_tokens=spec.answer_tokens,
                temperature=spec.temperature,
                top_p=spec.top_p,
                seed=(spec.seed << 20) + number,
            )
            with atomic_write(file) as written:
                written.writelines(map(_drawn_line, draw(chat, batch, reward, how, SilentProgress())))
        yield [_read(line, prompt) for line, prompt in zip(file.read_bytes().splitlines(), batch, strict=True)]
        progress.update(min(first + PROMPTS_AT_ONCE, len(prompts)), len(prompts))


def _require_same(folder: Path, made_of: dict[str, Any]) -> None:
    """Forget what was drawn otherwise."""
    note = folder / "drawn.json"
    if note.is_file() and read_json(note) == made_of:
        return
    for file in folder.glob("drawn-*.jsonl"):
        file.unlink()
    write_json(note, made_of)


def _drawn_line(drawn: Drawn) -> bytes:
    return _line(
        {
            "answers": [[one.text, list(one.ids), one.finish_reason] for one in drawn.completions],
            "totals": list(drawn.totals),
            "parts": {name: [None if math.isnan(x) else x for x in values] for name, values in drawn.parts.items()},
        }
    )


def _read(line: bytes, prompt: Prompt) -> Drawn:
    row = json.loads(line)
    return Drawn(
        prompt,
        tuple(Completion(text=text, ids=tuple(ids), finish_reason=reason) for text, ids, reason in row["answers"]),
        tuple(row["totals"]),
        {name: tuple(math.nan if x is None else x for x in values) for name, values in row["parts"].items()},
    )


def _kept(drawn: Drawn, spec: RejectionSpec) -> Iterable[dict[str, Any]]:
    """Rows of conversations that say where they come from."""
    asked = [{"role": message.role, "content": message.content} for message in drawn.prompt.messages]
    for place in keepers(drawn, spec):
        said = {"role": "assistant", "content": drawn.completions[place].text.strip()}
        yield {
            "messages": [*asked, said],
            "source": drawn.prompt.source,
            "drawn": place,
            TOTAL: drawn.totals[place],
            "mean": math.fsum(drawn.totals) / len(drawn.totals),
        }


def _line(row: Mapping[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
