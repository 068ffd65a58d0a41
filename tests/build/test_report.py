"""The report of a home made by real parts: it must say the truth, run nobody's script, ask no network, and bear gaps."""

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from dunwu.build import report, report_charts
from dunwu.build.home import Figures, Home, StageRecord, describe_files, write_record
from dunwu.build.report_data import collect
from dunwu.build.report_verdict import findings
from dunwu.core.files import write_json, write_text
from dunwu.core.lineage import stable_hash
from dunwu.core.page import html as page_html
from dunwu.core.progress import SilentProgress
from dunwu.core.recipe import CorpusSection, FolderSource
from dunwu.core.records import Document, Score
from dunwu.corpus.pipeline import build_corpus
from dunwu.corpus.store import read_documents
from dunwu.evaluate.baselines import run_baselines
from dunwu.evaluate.exam import ExamRow
from dunwu.evaluate.heldout import ChosenText, choose_text
from dunwu.evaluate.likelihood import score_text
from dunwu.evaluate.results import (
    BaselineScore,
    Comparison,
    Evaluation,
    ExamAnswers,
    ModelScores,
    gather,
    read_evaluation,
    write_evaluation,
)
from dunwu.evaluate.samples import Sample
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import new_decoder
from dunwu.train.metrics import MetricsLog

ATTACK = '</script><script>alert("x")</script><img src=x onerror=alert(1)> \u202e"\'& `javascript:`'
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
KINDS = {"recall": 0.0, "ownership": 0.1, "fits": 0.5, "left": 0.1, "premise": 0.5, "form": 0.0}


class Bytes:
    """A tokenizer of bytes, with the end of text at 256."""

    eos_id = 256

    def encode_batch(self, texts):
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32) for text in texts]


# ------------------------------------------------------------------------------------------------ a home to report on


def make_home(
    folder: Path, *, stages=("corpus", "tokenizer", "pretrain", "sft", "evaluate"), exam: bool = True
) -> Path:
    """A home with real corpus, metrics and evaluation of a tiny untrained model; times and answers are made up."""
    home = Home(folder)
    home.make()
    write_text(home.recipe_file, f"name: synthetic  # {ATTACK}\nbudget: 5min\n")
    needs: dict[str, str] = {}
    listed: dict[str, str] = {}
    for number, stage in enumerate(stages):
        identity = {"stage": stage, "needs": dict(needs)}
        needs[stage] = stable_hash(identity)
        place = home.stage_folder(stage, needs[stage])
        place.mkdir()
        facts = _fill(stage, place, home, exam)
        files = describe_files(place, sorted(file for file in place.rglob("*") if file.is_file()))
        write_record(place, _record(stage, needs[stage], identity, facts, files, number))
        listed[stage] = place.name
    write_json(
        home.build_file, {"name": "synthetic", "budget": "5min", "seconds": 1.0, "stages": listed, "dunwu": "0.1.0"}
    )
    return folder


def _record(stage, stage_hash, identity, facts, files, number) -> StageRecord:
    trained = stage in ("pretrain", "sft")
    predicted = Figures(
        seconds=20.0 * (number + 1),
        peak_bytes=600_000_000 + 50_000_000 * number,
        tokens=4_100_000 if trained else None,
        parameters=1_730_000 if trained else None,
        flops=5.5e13 if trained else None,
    )
    return StageRecord(
        stage=stage,
        hash=stage_hash,
        identity=identity,
        resolved={"tokens": 4_100_000, "batch_rows": 16} if trained else {},
        predicted=predicted,
        actual=replace(predicted, seconds=23.5 * (number + 1), peak_bytes=580_000_000),
        facts=facts,
        files=files,
        machine={
            "device": "cpu",
            "name": "Test CPU <fast>",
            "cores": 2,
            "memory_bytes": 24 * 10**9,
            "torch": "2.13",
            "system": "Linux",
        },
        started="2026-01-01T00:00:00+00:00",
        finished=f"2026-01-01T00:0{number}:00+00:00",
        dunwu="0.1.0",
    )


def _fill(stage: str, place: Path, home: Home, exam: bool) -> dict:
    if stage == "corpus":
        return _fill_corpus(place, home.folder.parent / f"{home.folder.name}-documents")
    if stage in ("pretrain", "sft"):
        _fill_metrics(place / "metrics.jsonl", 700 if stage == "pretrain" else 150, 9.0 if stage == "pretrain" else 3.0)
        write_text(place / "model.safetensors", f"not really weights of {stage}")
        return {"parameters": 1_730_000, "loss": 2.1, "resumed_from": 40 if stage == "pretrain" else None}
    if stage == "evaluate":
        [corpus] = home.stages.glob("corpus-*")
        write_evaluation(place / "evaluation.json", make_evaluation(corpus, exam=exam))
    return {"vocab_size": 4096}


def _fill_corpus(place: Path, documents: Path) -> dict:
    documents.mkdir(parents=True)
    rng = np.random.default_rng(0)
    words = [
        "the",
        "river",
        "of",
        "and",
        "a",
        "bridge",
        "that",
        "was",
        "old",
        "with",
        "house",
        "to",
        "in",
        "it",
        "garden",
    ]
    for i in range(30):
        paragraphs = [" ".join(rng.choice(words, 60)).capitalize() + "." for _ in range(12)]
        write_text(documents / f"{i:02}.txt", "\n\n".join(paragraphs))
    write_text(documents / "copy.txt", (documents / "00.txt").read_text())
    write_text(documents / "short.txt", ATTACK)
    section = CorpusSection(sources=(FolderSource(path=str(documents)),), heldout_fraction=0.2, workers=1)
    facts = build_corpus(section, place, seed=0, exam_texts=[], progress=SilentProgress())
    return {"train_documents": facts.train_documents}


def _fill_metrics(path: Path, steps: int, start: float) -> None:
    rng = np.random.default_rng(steps)
    with MetricsLog(path) as metrics:
        for step in range(1, steps + 1):
            done = step / steps
            metrics.row(
                {
                    "step": step,
                    "tokens": step * 4096,
                    "loss": 1.6 + (start - 1.6) * math.exp(-9 * done**0.6) + 0.06 * rng.standard_normal(),
                    "batch_rows": 16,
                    "lr_scale": min(1.0, step / (0.05 * steps), (1 - done) / 0.4 + 1e-9),
                    "tokens_per_s": 5200 + 300 * rng.standard_normal(),
                    "share_of_peak": 0.35,
                    "seconds": step * 0.8,
                }
            )
            if step == 300:
                metrics.row({"step": step, "incident": "skip", "row": 5, "reason": f"the loss is nan {ATTACK}"})


def make_evaluation(corpus: Path, *, exam: bool) -> Evaluation:
    text = choose_text(read_documents(corpus, "heldout"), max_bytes=9_000)
    config = DecoderConfig(
        vocab_size=257,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=64,
    )
    progress = SilentProgress()
    bits = {
        stage: score_text(new_decoder(config, seed=seed), Bytes(), text, context_length=64, progress=progress)
        for seed, stage in enumerate(("pretrain", "sft"))
    }
    return gather(
        text=text,
        bits=bits,
        exams={"pretrain": make_exam(0.1), "sft": make_exam(0.85)} if exam else {},
        baselines=run_baselines(read_documents(corpus, "train"), text),
        samples=make_samples(),
    )


def make_exam(skill: float, per_kind: int = 50) -> ExamAnswers:
    rng = np.random.default_rng(7)
    rows, chances = [], []
    for kind, chance in KINDS.items():
        for i in range(per_kind):
            right = bool(rng.random() < max(skill, chance))
            rows.append(
                ExamRow(
                    kind=kind,
                    language="zh" if i % 2 else "en",
                    question="Does the teapot fit into the suitcase?" if i % 2 == 0 else "茶壶装得进手提箱吗？",
                    expected="Yes. It does fit.",
                    answer="The teapot is 20 cm, the suitcase 60 cm. Yes." if right else f"No. {ATTACK}",
                    right=right,
                    ended=skill > 0.5 or i % 3 == 0,
                )
            )
            chances.append(chance)
    return ExamAnswers(rows=tuple(rows), chances=tuple(chances))


def make_samples() -> list[Sample]:
    common = {"tokens": 40, "temperature": 0.8, "seed": 0}
    return [
        Sample(stage="pretrain", kind="continuation", prompt="The old bridge over the river was", text=f" built of stone,\n\n{ATTACK} and the water", finish_reason="length", **common),
        Sample(stage="pretrain", kind="continuation", prompt="小桥流水人家，", text="古道西风瘦马。夕阳西下，断肠人在天涯。", finish_reason="stop", **common),
        Sample(stage="sft", kind="answer", prompt="How many eyes has the sun?", text="The sun has no eyes.", finish_reason="stop", **common),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return make_home(tmp_path_factory.mktemp("report") / "synthetic")


@pytest.fixture(scope="module")
def html(home) -> str:
    return report.write_report(home).read_text("utf-8")


class Parsed(HTMLParser):
    """Elements with their attributes, checked for balance; the text outside of scripts and styles."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(html)
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)


# ---------------------------------------------------------------------------------------------------------------- tests


def test_what_a_model_or_a_document_says_stays_text(html):
    parsed = Parsed(html)
    names = [name for name, _ in parsed.elements]
    assert "img" not in names
    assert names.count("script") == 2  # the data and the page's own
    assert not any(key.startswith("on") for _, attributes in parsed.elements for key in attributes)
    shown = "".join(parsed.text)
    assert 'alert("x")' in shown  # it was there to be shown
    assert "\u202e" not in shown  # what turns the direction of text around is made visible
    assert "⟨202E⟩" in shown


def test_asks_no_network_and_runs_only_its_own_script(html):
    parsed = Parsed(html)
    for name, attributes in parsed.elements:
        assert name not in {"link", "iframe", "object", "embed", "base", "form", "img"}
        assert "src" not in attributes
        assert "style" not in attributes  # the policy would refuse it
        assert attributes.get("href", "#").startswith("#")
    policies = [
        a["content"] for n, a in parsed.elements if n == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'")
    assert "unsafe" not in policies[0]
    [style] = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    script = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)[-1]
    assert page_html._hash(style) in policies[0]
    assert page_html._hash(script) in policies[0]
    assert "url(" not in style
    assert "http" not in style
    assert not re.search(r"fetch|XMLHttp|import\(|innerHTML|eval", script)


def test_numbers_of_the_evaluation_are_in_the_page(home, html):
    [path] = home.glob("stages/evaluate-*/evaluation.json")
    evaluation = read_evaluation(path)
    text = "".join(Parsed(html).text)
    scores = [model.bits_per_byte for model in evaluation.models] + [b.score for b in evaluation.baselines]
    for score in scores:
        assert f"{score.value:.3f}" in text
    own = evaluation.models[0].bits_per_byte
    assert f"{own.low:.3f} – {own.high:.3f}" in text
    for row in evaluation.models[-1].exam:
        assert f"{100 * row.score.low:.0f} – {100 * row.score.high:.0f}%" in text


def test_says_that_an_untrained_model_is_worse_than_the_baselines(home, html):
    [path] = home.glob("stages/evaluate-*/evaluation.json")
    outcomes = [finding.outcome for finding in findings(read_evaluation(path))]
    assert outcomes[:2] == ["bad", "bad"]
    text = "".join(Parsed(html).text)
    assert "worse than xz -9 compresses it" in text
    assert "not yet worth its cost" in text


def score(value, n=20):
    return Score(name="bits_per_byte", value=value, low=value - 0.01, high=value + 0.01, n=n, unit="bits/byte")


def test_the_verdict_says_which_stage_it_speaks_of_and_how_much_text_a_baseline_was_given():
    """A compressor or an n-gram that saw a part of the text, and a fine-tuning that forgot, must not look otherwise."""
    ngram = BaselineScore(key="ngram_bytes", score=score(2.5), train_bytes=24_000_000, train_bytes_total=90_000_000)
    change = {"figure": "bits_per_byte", "before": "pretrain", "after": "sft", "n": 20, "unit": "bits/byte"}
    evaluation = Evaluation(
        models=tuple(ModelScores(stage=s, bits_per_byte=score(v)) for s, v in (("pretrain", 2.0), ("sft", 2.7))),
        baselines=(ngram,),
        comparisons=(Comparison(**change, value=0.7, low=0.6, high=0.8, p_value=0.0),),
    )
    beaten, forgotten = findings(evaluation)
    assert (beaten.outcome, forgotten.outcome) == ("good", "bad")
    assert "trained on 24.0 MB of the same text" in beaten.text
    assert (
        "That was after pre-training. After fine-tuning it predicts the same text worse: 2.000 → 2.700"
        in forgotten.text
    )
    [whole] = findings(
        replace(evaluation, models=evaluation.models[:1], baselines=(replace(ngram, train_bytes=90_000_000),))
    )
    assert "trained on the same text" in whole.text


def test_every_label_is_there_in_both_languages(html):
    parsed = Parsed(html)
    english = sum(1 for _, a in parsed.elements if a.get("lang") == "en")
    chinese = sum(1 for _, a in parsed.elements if a.get("lang") == "zh-Hans")
    assert english - 1 == chinese > 100  # the page itself is marked English until the script decides


def test_incidents_resumption_and_the_hash_chain_are_told(home, html):
    text = "".join(Parsed(html).text)
    assert "batch skipped" in text
    assert "resumed from step 40" in text
    for folder in (home / "stages").iterdir():
        if not folder.name.startswith("evaluate"):
            assert folder.name.rpartition("-")[2] in text


def test_the_data_card_counts_what_was_dropped(home, html):
    [card] = home.glob("stages/corpus-*/card.json")
    dropped = json.loads(card.read_text())["dropped"]
    assert dropped  # the copy, at least
    text = "".join(Parsed(html).text)
    for rule in dropped:
        assert rule in text


@pytest.mark.parametrize(
    ("stages", "absent"),
    [
        ((), ["heldout", "exam", "training", "data", "lineage", "predicted"]),
        (("corpus",), ["heldout", "exam", "training", "incidents"]),
        (("corpus", "tokenizer", "pretrain"), ["heldout", "exam", "samples"]),
        (("corpus", "tokenizer", "pretrain", "evaluate"), ["exam"]),
    ],
)
def test_a_build_without_some_stages_gets_a_report_without_their_sections(tmp_path, stages, absent):
    folder = make_home(tmp_path / "partial", stages=stages, exam=False)
    parsed = Parsed(report.write_report(folder).read_text("utf-8"))
    sections = {attributes.get("id") for name, attributes in parsed.elements if name == "section"}
    assert sections.isdisjoint(absent)
    assert {"summary", "go-on"} <= sections


def test_damaged_files_cost_their_part_and_are_named(tmp_path):
    folder = make_home(tmp_path / "damaged")
    for name in ("card.json", "evaluation.json"):
        [path] = folder.glob(f"stages/*/{name}")
        path.write_text('{"cut')
    [metrics] = folder.glob("stages/sft-*/metrics.jsonl")
    metrics.write_text('{"step": 1, "tokens": 10, "loss": 2.0, "lr_scale": 1.0, "tokens_per_s": 5.0}\n{"step": 2, "to')
    (folder / "build.json").unlink()
    text = "".join(Parsed(report.write_report(folder).read_text("utf-8")).text)
    assert "card.json is not valid JSON" in text
    assert "evaluation.json is not valid JSON" in text
    assert len(collect(folder).curves["sft"].steps) == 1


def test_a_single_document_has_no_interval_and_says_so():
    text = choose_text([Document(text="one " * 200, source="only.txt", language="en")], max_bytes=10_000)
    evaluation = gather(
        text=text,
        bits={"pretrain": _bits(text)},
        exams={},
        baselines=run_baselines([Document(text="two words", source="t")], text),
    )
    section = report.heldout_section(evaluation)
    assert section is not None
    assert "nan" not in section.lower()
    assert "无" in section
    assert all(finding.outcome == "open" for finding in findings(evaluation))


def _bits(text: ChosenText):
    config = DecoderConfig(
        vocab_size=257, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=32,
    )  # fmt: skip
    return score_text(new_decoder(config, seed=0), Bytes(), text, context_length=32, progress=SilentProgress())


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: the page's script is not tried")
def test_draws_its_curves_in_a_real_browser(home, html, tmp_path):
    assert BROWSER is not None
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update"
    flags += " --disable-sync --no-first-run --lang=en --accept-lang=en --virtual-time-budget=2000"
    command = [BROWSER, *flags.split(), f"--user-data-dir={tmp_path}", "--enable-logging=stderr", "--v=0"]
    done = subprocess.run(
        [*command, "--dump-dom", f"file://{home / 'report.html'}"], capture_output=True, text=True, timeout=60
    )
    names = [name for name, _ in Parsed(done.stdout).elements]
    assert names.count("polyline") == 6  # loss, speed and learning rate, of two stages
    assert names.count("polygon") == 2
    assert "Content Security Policy" not in done.stderr
    assert "Uncaught" not in done.stderr


def test_elements_escape_whatever_is_not_markup():
    assert (
        page_html.el("p", "<b>", page_html.Html("<i></i>"), None, class_='"x')
        == '<p class="&quot;x">&lt;b&gt;<i></i></p>'
    )
    assert "</" not in page_html.embed_json({"x": "</script>"}, "data")[40:-9]
    with pytest.raises(ValueError, match="JSON"):
        page_html.embed_json(math.nan, "data")


def test_thinned_curves_keep_ends_means_and_extremes():
    rows = [{"tokens": 10 * i, "loss": float(i % 7), "tokens_per_s": 100.0 if i % 2 else 300.0} for i in range(1, 1001)]
    thin = report_charts.thin_rows(rows, points=100)
    assert len(thin["tokens"]) == 100
    assert thin["tokens"][-1] == 10_000
    assert np.mean(thin["loss"]) == pytest.approx(np.mean([row["loss"] for row in rows]), abs=1e-4)
    assert (min(thin["low"]), max(thin["high"])) == (0.0, 6.0)
    assert thin["speed"][0] == pytest.approx(150.0)  # equal work at 100 and 300 takes as long as at 150
    assert thin["lr"][0] is None


def test_a_report_of_a_long_run_stays_small(tmp_path, home):
    data = collect(home)
    steps = [{**data.curves["pretrain"].steps[0], "step": i, "tokens": 4096 * i} for i in range(1, 50_001)]
    long = replace(data, curves={"pretrain": replace(data.curves["pretrain"], steps=steps)})
    assert len(report.render_report(long)) < 400_000
