"""Held-out bits per byte, baselines, the exam and samples of every model of the build: `evaluation.json`.

Facts: `scores`, the headline figures by "stage figure", as dictionaries of `Score`; `heldout_bytes` scored; of a build that
learned from judgements `alignment`, its card in short.
"""

import dataclasses
import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dunwu.build.aligned import CardMaker
from dunwu.build.base import base_folder
from dunwu.build.conversations import with_system
from dunwu.build.costs import baseline_bytes
from dunwu.build.exam import exam_questions
from dunwu.build.graph import Outcome, Outlook, Stage, Work
from dunwu.build.held_out import held_out
from dunwu.build.home import ADAPTER, TRAINING_STAGES, Figures, Forecast
from dunwu.build.meters import resident_bytes
from dunwu.build.probe import TrainingSpeed
from dunwu.build.training import after_training_s, exact_speed
from dunwu.chat.local import LocalChat
from dunwu.core.devices import pick_device, pick_dtype, prepare_cpu
from dunwu.core.nulls import with_nulls
from dunwu.core.recipe import Recipe
from dunwu.core.records import Example, Message, Score
from dunwu.corpus.store import read_documents
from dunwu.corpus.world import Question
from dunwu.delta.finding import Found, put_on
from dunwu.delta.library import new_entry
from dunwu.evaluate.answers import AnswerBits, answer_bits, difference
from dunwu.evaluate.baselines import run_baselines
from dunwu.evaluate.exam import run_exam
from dunwu.evaluate.forgetting import make_scorecard, scorecard_facts, scorecard_lines, write_scorecard
from dunwu.evaluate.heldout import ChosenText, choose_text
from dunwu.evaluate.likelihood import BitsResult, score_text
from dunwu.evaluate.results import Evaluation, ExamAnswers, gather, write_evaluation
from dunwu.evaluate.samples import Sample, answer_prompts, choose_openings, continue_openings
from dunwu.infer.generate import Generator
from dunwu.model.config import DecoderConfig
from dunwu.model.count import parameters, training_bytes
from dunwu.model.decoder import Decoder
from dunwu.model.hub import load_model
from dunwu.tokenizer.load import load_tokenizer

MODEL_STAGES = ("base", *TRAINING_STAGES)
TUNED = ("sft", "prefer", "rl")
SCORECARD_FILE = "scorecard.json"


def _settings(recipe: Recipe) -> Mapping[str, Any]:
    section = recipe.evaluate.model_dump(mode="json", exclude=set() if recipe.evaluate.judge else {"judge"})
    return {"evaluate": section, "system_prompt": recipe.sft.system_prompt}


def _forecast(outlook: Outlook) -> Forecast:
    if outlook.recipe.only_tunes:
        config, speed = (
            DecoderConfig(**outlook.facts["base"]["model"]),
            TrainingSpeed(**_tuning_facts(outlook.facts)["speed"]),
        )
        held = 4 * parameters(config)
        return Forecast(
            predicted=Figures(
                seconds=after_training_s(outlook, speed, still=()), peak_bytes=resident_bytes() + 2 * held
            )
        )
    pretrain = outlook.facts["pretrain"]
    config = DecoderConfig(**pretrain["model"])
    context, rows = pretrain["context_length"], pretrain["micro_batch_rows"]
    speed = exact_speed(outlook.recipe, config, context, rows)
    return Forecast(
        predicted=Figures(
            seconds=after_training_s(outlook, speed, still=()),
            peak_bytes=resident_bytes()
            + max(
                training_bytes(config, rows, context, "adamw") // 3,
                baseline_bytes(outlook.recipe, outlook.facts["corpus"]["train_bytes"]),
            ),
        )
    )


def _run(work: Work) -> Outcome:
    prepare_cpu()
    return _run_tuned(work) if work.recipe.only_tunes else _run_grown(work)


def _run_tuned(work: Work) -> Outcome:
    """What tuning alone did: to answers that it did not learn, and to what is said."""
    held = [with_system(example, work.recipe.sft.system_prompt) for example in held_out(work.recipe).values()]
    section, context = work.recipe.evaluate, _tuning_facts(work.facts)["context_length"]
    first = _first_questions(held) or next(
        (work.facts[name]["held_out_prompts"] for name in ("prefer", "rl") if name in work.facts), []
    )
    asked = section.prompts or first[: section.samples]
    card = CardMaker(work, [], otherwise=first)
    bits: dict[str, AnswerBits] = {}
    samples: list[Sample] = []
    for stage, folder in _models(work):
        work.progress.start(f"Evaluating {stage}")
        if held:
            model = _read(stage, folder, work)
            bits[stage] = answer_bits(model, load_tokenizer(folder), held, context_length=context)
            del model
            gc.collect()
        if asked or card.wanted:
            chat = LocalChat.load(folder, delta=_beside(stage, work), any_base=True)
            samples += answer_prompts(chat, asked, stage=stage, system=work.recipe.sft.system_prompt)
            card.ask(stage, chat)
    evaluation = gather(text=None, bits={}, exams={}, samples=samples)
    write_evaluation(work.folder / "evaluation.json", evaluation)
    scores = {f"{stage} answers": with_nulls(asdict(found.score(f"{stage} answers"))) for stage, found in bits.items()}
    facts: dict[str, Any] = {"scores": scores, **card.finish({}, evaluation)}
    if held:
        facts["answers"] = difference(bits["base"], bits["sft"])._asdict()
    return Outcome(facts=facts)


def _tuning_facts(facts: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """Of the first stage that tuned a base as it is."""
    return next(facts[name] for name in TUNED if name in facts)


def _first_questions(held: Sequence[Example]) -> list[str]:
    """How conversations that were held out begin."""
    return [next(message.content for message in one.messages if message.role == "user") for one in held]


def _run_grown(work: Work) -> Outcome:
    section = work.recipe.evaluate
    text = choose_text(read_documents(work.needs["corpus"], "heldout"), max_bytes=section.heldout_bytes)
    general = _general_text(work)
    questions = _asked(work.recipe)
    card = CardMaker(work, questions)
    bits: dict[str, BitsResult] = {}
    general_bits: dict[str, BitsResult] = {}
    exams: dict[str, ExamAnswers] = {}
    samples: list[Sample] = []
    for stage, folder in _models(work):
        work.progress.start(f"Evaluating {stage}")
        bits[stage] = _bits(stage, folder, text, work)
        if general is not None:
            general_bits[stage] = _bits(stage, folder, general, work)
        if (questions or card.wanted) and load_tokenizer(folder).chat_template is not None:
            chat = LocalChat.load(folder, delta=_beside(stage, work), any_base=True)
            if questions:
                exams[stage] = ExamAnswers.of(questions, run_exam(chat, questions, progress=work.progress))
            card.ask(stage, chat)
        samples += _samples(stage, folder, text, questions, work)
    work.progress.start("Measuring baselines")
    train = read_documents(work.needs["corpus"], "train")
    baselines = run_baselines(train, text) if section.baselines else []
    evaluation = gather(text=text, bits=bits, exams=exams, baselines=baselines, samples=samples)
    write_evaluation(work.folder / "evaluation.json", evaluation)
    facts: dict[str, Any] = {"scores": _headlines(evaluation), "heldout_bytes": text.bytes}
    facts |= card.finish(exams, evaluation)
    if work.recipe.base:
        scorecard = make_scorecard(work.facts["base"]["name"], bits, general_bits, exams)
        write_scorecard(work.folder / SCORECARD_FILE, scorecard)
        work.progress.note("\n".join(scorecard_lines(scorecard)))
        facts |= {"gain_and_forgetting": scorecard_facts(scorecard)}
    return Outcome(facts=facts)


def _models(work: Work) -> Iterator[tuple[str, Path]]:
    """Every model of the build with its folder, in their order; the base first, where there is one."""
    for name in MODEL_STAGES:
        if name in work.needs:
            folder = work.needs[name]
            yield name, base_folder(work.recipe, work.facts["base"]["revision"]) if name == "base" else folder


def _general_text(work: Work) -> ChosenText | None:
    """Held-out text of the replayed sources."""
    if "replay" not in work.needs:
        return None
    documents = read_documents(work.needs["replay"], "heldout")
    return choose_text(documents, max_bytes=work.recipe.evaluate.heldout_bytes)


def _asked(recipe: Recipe) -> list[Question]:
    """The exam, with the system prompt that the model was tuned to."""
    questions = exam_questions(recipe, recipe.evaluate.exam_questions)
    if not recipe.sft.system_prompt:
        return questions
    system = Message(role="system", content=recipe.sft.system_prompt)
    return [dataclasses.replace(question, messages=(system, *question.messages)) for question in questions]


def _beside(stage: str, work: Work) -> Found | None:
    """What the stage learned, where its weights do not have it in them."""
    if stage not in TUNED or work.facts[stage].get("merged", True):
        return None
    folder = work.needs[stage] / ADAPTER
    return Found(name=ADAPTER, folder=folder, entry=new_entry(ADAPTER, folder))


def _read(stage: str, folder: Path, work: Work) -> Decoder:
    model = load_model(folder, device=pick_device(), dtype=torch.float32)
    found = _beside(stage, work)
    return model if found is None else put_on(found, model, folder, any_base=True)


def _bits(stage: str, folder: Path, text: ChosenText, work: Work) -> BitsResult:
    model = _read(stage, folder, work)
    tokenizer = load_tokenizer(folder)
    result = score_text(
        model,
        tokenizer,
        text,
        context_length=work.facts["pretrain"]["context_length"],
        progress=work.progress,
        start_ids=tokenizer.start_ids,
    )
    del model
    gc.collect()
    return result


def _samples(stage: str, folder: Path, text: ChosenText, questions: Sequence[Question], work: Work) -> list[Sample]:
    """Continuations by a model that only read; answers by one that was tuned to give them."""
    recipe, section = work.recipe, work.recipe.evaluate
    if section.samples == 0:
        return []
    if stage in TUNED:
        prompts = section.prompts or _first_of_each_kind(questions)[: section.samples]
        chat = LocalChat.load(folder, delta=_beside(stage, work), any_base=True)
        return answer_prompts(chat, prompts, stage=stage, system=recipe.sft.system_prompt)
    tokenizer = load_tokenizer(folder)
    device = pick_device()
    generator = Generator(load_model(folder, device=device, dtype=pick_dtype(device)), tokenizer)
    openings = section.prompts or choose_openings(text, section.samples)
    return continue_openings(generator, tokenizer, openings, stage=stage, seed=recipe.seed)


def _first_of_each_kind(questions: Iterable[Question]) -> list[str]:
    firsts: dict[str, str] = {}
    for question in questions:
        firsts.setdefault(question.kind, question.messages[-1].content)
    return list(firsts.values())


def _headlines(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    scores: dict[str, Score] = {row.key: row.score for row in evaluation.baselines}
    for model in evaluation.models:
        if model.bits_per_byte:
            scores[f"{model.stage} bits_per_byte"] = model.bits_per_byte
        if model.ended_turns:
            scores[f"{model.stage} ended_turns"] = model.ended_turns
        scores |= {f"{model.stage} exam.{row.kind}": row.score for row in model.exam}
    return {name: with_nulls(asdict(score)) for name, score in scores.items()}


EVALUATE = Stage(
    name="evaluate",
    title="Evaluating",
    version="2",
    needs=("base", "corpus", "replay", "pretrain", "sft", "prefer", "reward", "rl"),
    settings=_settings,
    forecast=_forecast,
    run=_run,
    wanted=lambda recipe: not recipe.only_scores,
)
