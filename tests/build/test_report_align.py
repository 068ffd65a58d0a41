"""The report of a build that learned from judgements: the card's figures, the curves with what the doctor found, and no script
of a model's."""

import json
import math
import random
import shutil
import subprocess
from dataclasses import asdict, replace

import pytest

from dunwu.align.card.record import AlignmentCard, CardRow, write_card
from dunwu.align.doctor.doctor import Doctor
from dunwu.align.doctor.finding import DoctorConfig, Finding
from dunwu.align.doctor.registry import RULES
from dunwu.build import report
from dunwu.build.home import Figures, Home, StageRecord, describe_files, write_record
from dunwu.build.report_align import FIGURES_ZH, NAMES_ZH, card_findings, rl_curves
from dunwu.core.files import write_json
from dunwu.core.lineage import stable_hash
from dunwu.core.records import Score
from dunwu.evaluate.results import Evaluation, write_evaluation
from dunwu.evaluate.stats import PairedDifference
from tests.align.simulated import FAULTS, planted
from tests.build.test_report import ATTACK, Parsed

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


def row(figure, stage, value, change=None, p=1.0, unit="share"):
    score = Score(name=figure, value=value, low=value - 0.1, high=value + 0.1, n=50, unit=unit)
    moved = None if change is None else PairedDifference(change, change - 0.05, change + 0.05, 50, p)
    return CardRow(figure=figure, stage=stage, score=score, change=moved)


def make_card(**changes):
    rows = (
        row("reward", "sft", 0.4, unit="points"),
        row("reward", "rl", 0.7, 0.3, 1e-6, unit="points"),
        row(f"reward.{ATTACK}", "rl", 0.5, unit="points"),
        row("win_rate", "rl", 0.6, 0.1, 1e-4),
        row("refusal.sound", "sft", 0.1),
        row("refusal.sound", "rl", 0.3, 0.2, 1e-3),
        row("bits_per_byte", "sft", 2.0, unit="bits/byte"),
        row("bits_per_byte", "rl", 2.05, 0.05, 1e-8, unit="bits/byte"),
        row("exam.recall", "rl", 0.9, 0.0),
        row("length", "rl", 20.0, math.nan, math.nan, unit="tokens"),
    )
    common = {"against": "sft", "judge": "the exam's rules", "refusals_by": "rules of the small world"}
    return AlignmentCard(**{**common, "prompts": 50, "sampled": 16, "samples": 8, "rows": rows, **changes})


def make_rows():
    fault = next(one for one in FAULTS if one.name == "KL runs away")
    rows, _ = planted(fault, random.Random(3))
    return [{**row, "loss": 0.0, "prompts": 8 * row["step"]} for row in rows]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Only what the sections are made of: metrics and findings of rl, the card of evaluate."""
    home = Home(tmp_path_factory.mktemp("aligned") / "aligned")
    home.make()
    home.recipe_file.write_text("name: aligned\n")
    rows = make_rows()
    found = [asdict(one) for one in Doctor.after(rows, DoctorConfig(steps=len(rows))).findings]
    found.append(asdict(Finding("rising length", 80, "lost", f"Seen {ATTACK}.", f"Try {ATTACK}.", 90)))
    change = {"value": 0.3, "low": 0.2, "high": 0.4, "n": 50, "p_value": 0.001}
    held_out = {"before": 0.4, "after": 0.7, "change": change}
    facts = {
        "rl": {"findings": found, "held_out": held_out, "kept": "best", "kept_step": 60, "parameters": 1000},
        "evaluate": {"scores": {}, "alignment": {}},
    }
    listed = {}
    for stage in ("rl", "evaluate"):
        own = stable_hash({"stage": stage})
        place = home.stage_folder(stage, own)
        place.mkdir()
        if stage == "rl":
            (place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            write_card(place / "alignment.json", make_card())
            write_evaluation(place / "evaluation.json", Evaluation())
        files = describe_files(place, [file for file in sorted(place.iterdir()) if file.is_file()])
        none = Figures(seconds=1.0)
        write_record(
            place,
            StageRecord(
                stage=stage, hash=own, identity={"stage": stage, "needs": {}}, resolved={}, predicted=none, actual=none,
                facts=facts[stage], files=files, machine={}, started="2026-01-01T00:00:00+00:00",
                finished="2026-01-01T00:00:00+00:00", dunwu="0.1.0",
            ),
        )  # fmt: skip
        listed[stage] = place.name
    write_json(
        home.build_file, {"name": "aligned", "budget": "5min", "seconds": 1.0, "stages": listed, "dunwu": "0.1.0"}
    )
    return home.folder


@pytest.fixture(scope="module")
def html(home):
    return report.write_report(home).read_text("utf-8")


def test_the_card_stands_in_the_page_and_its_gains_and_costs_in_the_verdict(html):
    text = "".join(Parsed(html).text)
    assert "Its answers win 60.0% (95% interval 50 – 70%; 50% is a tie)" in text
    assert "cost it 0.050 bits a byte on plain text [0.000, 0.100]: the alignment tax" in text
    assert "sound questions refused, 30.0% now" in text
    assert "Reinforcement learning was stopped, rising length since step 80" in text
    assert "sound questions refused" in text
    assert "拒答合理问题" in text
    assert "0.400 → 0.700, change 0.300 [0.200, 0.400]. The weights kept are the best, those of step 60." in text


def test_what_a_model_or_a_name_says_runs_nothing(html):
    parsed = Parsed(html)
    assert [name for name, _ in parsed.elements].count("script") == 2  # the page's own, and its data
    assert not [name for name, _ in parsed.elements if name == "img"]
    assert "javascript" in "".join(parsed.text)  # shown as text


def test_curves_hold_every_figure_and_where_the_doctor_looked(home, html):
    start = html.index('id="curves">') + len('id="curves">')
    curves = json.loads(html[start : html.index("</script>", start)].replace("\\u003c", "<"))["rl"]
    assert curves["step"] == list(range(1, 121))
    assert {"reward", "reward.right", "kl", "entropy", "answer_tokens", "ended", "held_out_score"} <= set(curves)
    assert any(mark["severity"] == "lost" and mark["step"] == 80 for mark in curves["marks"])
    assert [mark["number"] for mark in curves["marks"]] == list(range(1, len(curves["marks"]) + 1))


def test_long_runs_are_thinned_to_means_with_their_extremes():
    rows = [{"step": i, "reward": float(i % 7), "kl": math.inf, "loss": 0.0} for i in range(1, 1001)]
    rows[100]["held_out_score"] = 0.5
    thin = rl_curves(rows, [])
    assert len(thin["step"]) <= 240
    assert thin["step"][-1] == 1000
    assert (min(thin["reward low"]), max(thin["reward high"])) == (0.0, 6.0)
    assert [value for value in thin["held_out_score"] if value is not None] == [0.5]
    assert set(thin["kl"]) == {None}


def test_a_change_that_is_not_clear_is_no_news():
    card = make_card(rows=(row("win_rate", "sft", 0.5), row("win_rate", "rl", 0.52, 0.02, 0.4)))
    [won] = card_findings(card, [])
    assert won.outcome == "open"
    assert card_findings(None, []) == []
    worse = make_card(rows=(row("win_rate", "rl", 0.4, -0.1, 1e-3),))
    assert card_findings(worse, [])[0].outcome == "bad"


def test_every_finding_and_figure_has_a_chinese_name():
    names = {one.name for one in FAULTS} | {"not finite", "batches skipped", "falling length"}
    assert names <= set(NAMES_ZH)
    assert len(RULES) + 1 == len(NAMES_ZH)
    card = make_card()
    assert {name for name in card.figures if "." not in name or name.startswith("refusal")} <= set(FIGURES_ZH)


def test_a_damaged_card_costs_its_section_and_is_named(home, tmp_path):
    there = shutil.copytree(home, tmp_path / "damaged")
    [path] = there.glob("stages/evaluate-*/alignment.json")
    path.write_text('{"format": 1}')
    text = "".join(Parsed(report.write_report(there).read_text("utf-8")).text)
    assert "does not hold an alignment card" in text
    assert "Learning from rewards" in text


def test_a_run_that_is_lost_before_its_first_step_has_no_curves(home):
    data = report.collect(home)
    empty = replace(data, curves={"rl": replace(data.curves["rl"], steps=[])})
    assert 'id="rewards"' not in report.render_report(empty)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: the page's script is not tried")
def test_curves_are_drawn_with_marks_in_a_real_browser(home, html, tmp_path):
    assert BROWSER is not None
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update"
    flags += " --disable-sync --no-first-run --lang=en --virtual-time-budget=2000"
    command = [BROWSER, *flags.split(), f"--user-data-dir={tmp_path}", "--enable-logging=stderr", "--v=0"]
    done = subprocess.run(
        [*command, "--dump-dom", f"file://{home / 'report.html'}"], capture_output=True, text=True, timeout=60
    )
    elements = Parsed(done.stdout).elements
    assert [name for name, _ in elements].count("polyline") == 10  # the reward, its two parts, and seven more
    held_out = sum(attributes.get("class") == "held-out" for _, attributes in elements)
    assert held_out == sum("held_out_score" in row for row in make_rows())
    assert any(attributes.get("class") == "mark lost" for _, attributes in elements)
    assert "Content Security Policy" not in done.stderr
    assert "Uncaught" not in done.stderr
