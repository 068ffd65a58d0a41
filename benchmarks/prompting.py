"""Prompting on the small world: few-shot curves, chain of thought against answering at once, and self-consistency, by size of model.

    python benchmarks/prompting.py data conversations.jsonl
    for SIZE in "small 80 3 240" "medium 144 3 432" "large 240 4 720"; do set -- $SIZE
        dunwu build benchmarks/prompting.yaml out=builds/$1_short sft.tokens=400_000 budget=30min \\
            sft.sources.0.path=$PWD/conversations.jsonl \\
            model.hidden_size=$2 model.num_hidden_layers=$3 model.intermediate_size=$4
    done                                               # without sft.tokens: the models that are not short
    python benchmarks/prompting.py measure builds/*_short > results.jsonl
    python benchmarks/prompting.py tables results.jsonl

All questions combine facts that no conversation combined. Answers are judged by the world's own rules, by their last sentence.
Intervals (95%) are over combinations of facts: two wordings of one are not independent. Changes are paired by question. Nobody
else's program is beside it: the comparison is the same model, asked in another way. One JSON line a figure.
"""

import argparse
import json
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prompting_data import FORMS, REASONED, SEED, SIZE, TRIGGER, at_once, form_case, write_conversations

from dunwu.chat.local import LocalChat
from dunwu.chat.options import ChatOptions
from dunwu.chat.protocol import Chat
from dunwu.core.devices import pick_device, prepare_cpu
from dunwu.core.problems import Problem
from dunwu.core.records import Completion, Message
from dunwu.corpus.world import build_world
from dunwu.corpus.world.exam import QuestionPool
from dunwu.corpus.world.form import Form
from dunwu.corpus.world.questions import Grade, Question
from dunwu.evaluate.clustered import score_interval
from dunwu.evaluate.exam import grade_answer
from dunwu.evaluate.paired import paired
from dunwu.prompt.answers import vote
from dunwu.prompt.curves import learning_curve
from dunwu.prompt.demonstrations.base import Demonstrations
from dunwu.prompt.demonstrations.registry import demonstrations
from dunwu.prompt.strategies.base import StrategyChat, derived_seed, sampled
from dunwu.prompt.strategies.chain_of_thought import ChainOfThought
from dunwu.prompt.strategies.few_shot import FewShot

COUNT = 24_000
BATCH = 64
TOKENS = 110  # the longest chain, a count down by nine, takes about 90
DRAWS = 2
SHOWN_QUESTIONS = 60
SHOWN = (0, 1, 2, 4, 8)
SHOWN_CHAINS = (0, 1, 2, 3)  # more do not fit the context
SAMPLES = (1, 2, 4, 8, 16)
TEMPERATURES = (0.7, 1.0)
KINDS = {"fits": "comparing", "left": "counting"}


def questions(kind: str, count: int, *, for_exam: bool) -> list[Problem]:
    """Comparing or counting; the target is the answer at once, the column `chain` that in steps."""
    world = build_world(SEED, SIZE)
    pool = QuestionPool(world, next(one for one in REASONED if one.name == kind), for_exam=for_exam)
    found = pool.balanced("en", count, random.Random(f"measured {kind} {for_exam}"))
    return [_problem(one) for one in found]


def _problem(one: Question) -> Problem:
    return Problem(
        id=one.messages[0].content,
        input=one.messages[0].content,
        target=at_once(one.answer),
        group="/".join(one.combination),
        columns={"chain": one.answer, "grade": one.grade},
    )


def shown_forms(*, for_exam: bool) -> list[Problem]:
    """Values whose form no question names."""
    world, kind = build_world(SEED, SIZE), Form()
    cases = [one for one in kind.combinations(world) if one[0] in FORMS and kind.held_out(world, one) == for_exam]
    problems: list[Problem] = []
    for form, key, attribute in cases:
        question, answer = form_case(world, (form, key, attribute))
        problems.append(
            Problem(
                id=f"{form}/{key}/{attribute}",
                input=question,
                target=answer,
                subject=form,
                columns={"grade": Grade(rule="exact", expected=(answer,))},
            )
        )
    return problems


def told(chat: Chat, problems: Sequence[Problem], options: ChatOptions) -> list[Completion]:
    """Answers, some at a time."""
    found: list[Completion] = []
    for first in range(0, len(problems), BATCH):
        batch = problems[first : first + BATCH]
        own = [replace(options, seed=derived_seed(options.seed, one.id)) for one in batch]  # else all would draw alike
        found += chat.reply_each([[Message(role="user", content=one.input)] for one in batch], own)
    return found


def grades(problems: Sequence[Problem], texts: Sequence[str]) -> list[float]:
    return [float(grade_answer(one.columns["grade"], text)) for one, text in zip(problems, texts, strict=True)]


def asked(
    chat: Chat,
    problems: Sequence[Problem],
    *,
    judge: Callable[[Sequence[Problem], Sequence[str]], list[float]] = grades,
) -> list[float]:
    """Scores of the likeliest answers."""
    return judge(problems, [one.text for one in told(chat, problems, ChatOptions(max_tokens=TOKENS))])


def share(name: str, scores: Sequence[float], problems: Sequence[Problem], **facts: Any) -> dict[str, Any]:
    value, low, high, n = score_interval(scores, _groups(problems))
    return _line(name, value, low, high, n, "share", questions=len(problems), **facts)


def change(
    name: str, before: Sequence[float], after: Sequence[float], problems: Sequence[Problem], **facts: Any
) -> dict[str, Any]:
    found = paired(before, after, _groups(problems))
    return _line(
        name,
        found.value,
        found.low,
        found.high,
        found.n,
        "share, difference",
        p_value=round(found.p_value, 5),
        questions=len(problems),
        **facts,
    )


def _groups(problems: Sequence[Problem]) -> list[str]:
    return [one.group or one.id for one in problems]


def _line(name: str, value: float, low: float, high: float, n: int, unit: str, **facts: Any) -> dict[str, Any]:
    bounds = {"value": round(value, 4), "low": round(low, 4), "high": round(high, 4), "n": n}
    return {"figure": f"prompting_{name}", **bounds, "unit": unit, **facts}


def form_of(text: str) -> str:
    """Which of the forms an answer has, whatever it says."""
    try:
        return "json" if isinstance(json.loads(text), dict) else "one word"
    except (json.JSONDecodeError, RecursionError):
        return "capitals" if text.isupper() else "one word"


def forms(chat: Chat, size: str) -> Iterator[dict[str, Any]]:
    """By number of demonstrations: the form that only they show, and the right value in that form."""
    problems, pool = shown_forms(for_exam=True), shown_forms(for_exam=False)
    pools = {form: [one for one in pool if one.subject == form] for form in FORMS}
    parts = [(form, [one for one in problems if one.subject == form]) for form in FORMS]

    def kept(members: Sequence[Problem], texts: Sequence[str]) -> list[float]:
        return [float(form_of(text.strip()) == one.subject) for one, text in zip(members, texts, strict=True)]

    yield from curve(chat, f"form_kept_{size}", parts, pools, SHOWN, judge=kept)
    yield from curve(chat, f"form_and_value_{size}", parts, pools, SHOWN)


def few_shot(chat: Chat, size: str) -> Iterator[dict[str, Any]]:
    """Comparing and counting by number of demonstrations, answered at once and in chains."""
    for kind, name in KINDS.items():
        problems, pool = questions(kind, SHOWN_QUESTIONS, for_exam=True), questions(kind, 400, for_exam=False)
        yield from curve(chat, f"{name}_at_once_{size}", [("", problems)], {"": pool}, SHOWN)
        yield from curve(chat, f"{name}_chains_{size}", [("", problems)], {"": pool}, SHOWN_CHAINS, chains=True)


def curve(
    chat: Chat,
    name: str,
    parts: Sequence[tuple[str, Sequence[Problem]]],
    pools: dict[str, list[Problem]],
    ks: Sequence[int],
    *,
    chains: bool = False,
    judge: Callable[[Sequence[Problem], Sequence[str]], list[float]] | None = None,
) -> Iterator[dict[str, Any]]:
    """The score by number of demonstrations; `parts`: problems, by the pool that their demonstrations come from."""
    everything = [one for _, problems in parts for one in problems]

    def draw(k: int, number: int) -> Callable[[Problem], Sequence[Problem]]:
        chosen = {part: demonstrations(f"random:k={k},seed={number}", pools[part]) for part, _ in parts}
        return lambda problem: chosen[problem.subject](problem)

    def answer(problems: Sequence[Problem], shown: Demonstrations) -> list[float]:
        scores: list[float] = []
        for part, members in parts:
            few = FewShot(
                shown=lambda problem, part=part: shown(Problem(id="", input=problem.input, subject=part)),
                answers="chain" if chains else "target",
                tokens=1,
            )
            scores += asked(StrategyChat(few, chat), members, judge=judge or grades)
        return scores

    for point in learning_curve(everything, draw, answer, score_interval, ks=ks, draws=DRAWS):
        yield share(f"curve_{name}_{point.k}", point.by_problem, everything, demonstrations=point.k, draws=DRAWS)


def chain_of_thought(chat: Chat, size: str) -> Iterator[dict[str, Any]]:
    """At once, in steps, and the paired change."""
    steps = StrategyChat(ChainOfThought(trigger=TRIGGER, tokens=1), chat)
    for kind, name in KINDS.items():
        problems = questions(kind, 200, for_exam=True)
        direct, chained = asked(chat, problems), asked(steps, problems)
        yield share(f"{name}_direct_{size}", direct, problems)
        yield share(f"{name}_cot_{size}", chained, problems)
        yield change(f"{name}_cot_gain_{size}", direct, chained, problems)


def self_consistency(chat: Chat, size: str) -> Iterator[dict[str, Any]]:
    """Votes of the first n of 16 chains, as the strategy of n samples takes them, against the likeliest chain and against one drawn."""
    steps = StrategyChat(ChainOfThought(trigger=TRIGGER, tokens=1), chat)
    for kind, name in KINDS.items():
        problems = questions(kind, 80, for_exam=True)
        greedy = asked(steps, problems)
        yield share(f"{name}_likeliest_chain_{size}", greedy, problems)
        for temperature in TEMPERATURES:
            drawn = [
                [
                    one.text
                    for one in told(
                        steps,
                        problems,
                        sampled(
                            ChatOptions(max_tokens=TOKENS, seed=SEED),
                            temperature,
                            "sample",
                            number,
                            zlib.crc32(kind.encode()),
                        ),
                    )
                ]
                for number in range(max(SAMPLES))
            ]
            for n in SAMPLES:
                winners = [_winner([drawn[number][place] for number in range(n)]) for place in range(len(problems))]
                scores = grades(problems, winners)
                facts = {"samples": n, "temperature": temperature}
                yield share(f"{name}_votes_{n}_t{temperature}_{size}", scores, problems, **facts)
                yield change(f"{name}_votes_{n}_t{temperature}_gain_{size}", greedy, scores, problems, **facts)
                if n > 1:
                    one = grades(problems, drawn[0])
                    yield change(f"{name}_votes_{n}_t{temperature}_over_one_{size}", one, scores, problems, **facts)


def _winner(texts: Sequence[str]) -> str:
    found = vote(texts)
    return texts[0 if found is None else found.place]


def markdown(figures: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The figures as tables: a row for each model, or number."""
    found = {one["figure"].removeprefix("prompting_"): one for one in figures}
    sizes = {
        name.removeprefix("comparing_direct_"): one
        for name, one in found.items()
        if name.startswith("comparing_direct_")
    }
    rows = [
        [
            _named(size, one),
            *(
                _cell(found.get(f"{kind}_{what}_{size}"))
                for kind in KINDS.values()
                for what in ("direct", "cot", "cot_gain")
            ),
        ]
        for size, one in sizes.items()
    ]
    heads = [f"{kind}: {what}" for kind in KINDS.values() for what in ("at once", "in steps", "change")]
    yield _table(["model", *heads], rows)
    for curve_name in (
        "form_kept",
        "form_and_value",
        *(f"{kind}_{how}" for kind in KINDS.values() for how in ("at_once", "chains")),
    ):
        ks = SHOWN_CHAINS if curve_name.endswith("chains") else SHOWN
        cells = [
            [_named(size, one), *(_cell(found.get(f"curve_{curve_name}_{size}_{k}")) for k in ks)]
            for size, one in sizes.items()
        ]
        yield f"{curve_name}\n\n" + _table(
            ["model", *(f"{k} shown" for k in ks)], [row for row in cells if any(row[1:])]
        )
    for kind in KINDS.values():
        for temperature in TEMPERATURES:
            cells = [
                [
                    _named(size, one),
                    _cell(found.get(f"{kind}_likeliest_chain_{size}")),
                    *(_cell(found.get(f"{kind}_votes_{n}_t{temperature}_{size}")) for n in SAMPLES),
                    *(
                        _cell(found.get(f"{kind}_votes_{max(SAMPLES)}_t{temperature}_{what}_{size}"))
                        for what in ("over_one", "gain")
                    ),
                ]
                for size, one in sizes.items()
            ]
            heads = [
                "model",
                "likeliest chain",
                *(f"{n} drawn" for n in SAMPLES),
                f"{max(SAMPLES)} less 1",
                f"{max(SAMPLES)} less likeliest",
            ]
            yield f"{kind}, temperature {temperature}\n\n" + _table(heads, [row for row in cells if any(row[1:])])


def _named(size: str, one: dict[str, Any]) -> str:
    return f"{size.replace('_', ', ')} ({one['parameters'] / 1e6:.2f}M)"


def _cell(one: dict[str, Any] | None) -> str:
    if one is None:
        return ""
    sign = "+" if "difference" in one["unit"] else ""
    return f"{one['value']:{sign}.2f} [{one['low']:{sign}.2f}, {one['high']:{sign}.2f}]"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


PARTS = {
    "forms": forms,
    "few_shot": few_shot,
    "chain_of_thought": chain_of_thought,
    "self_consistency": self_consistency,
}


def main() -> None:
    """Write the conversations, or print all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data")
    data.add_argument("out", type=Path)
    data.add_argument("--conversations", type=int, default=COUNT)
    measure = commands.add_parser("measure")
    measure.add_argument("homes", type=Path, nargs="+")
    measure.add_argument("--only", default="", choices=["", *PARTS])
    tables = commands.add_parser("tables")
    tables.add_argument("results", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "data":
        write_conversations(arguments.out, arguments.conversations)
        return
    if arguments.command == "tables":
        print("\n\n".join(markdown([json.loads(line) for line in arguments.results.read_text().splitlines()])))
        return
    prepare_cpu()
    for home in arguments.homes:
        chat = LocalChat.load(home / "model")
        parameters = sum(one.numel() for one in chat.generator.model.parameters())
        for name, part in PARTS.items():
            if arguments.only in ("", name):
                for figure in part(chat, home.name):
                    print(json.dumps({**figure, "parameters": parameters, "device": pick_device().type}), flush=True)


if __name__ == "__main__":
    main()
