"""What the home shows the world: the finished model in `model/`, and the whole build on one page, `report.html`."""

from pathlib import Path

from dunwu.build.costs import REPORT_S
from dunwu.build.export import FACTS_FILE, alignment_part, export_model
from dunwu.build.graph import Outcome, Outlook, Stage, Work
from dunwu.build.home import Figures, Forecast
from dunwu.build.meters import resident_bytes
from dunwu.build.report import write_report
from dunwu.build.reward_home import export_reward_model
from dunwu.core.files import disk_errors, write_text


def _forecast(outlook: Outlook) -> Forecast:
    return Forecast(predicted=Figures(seconds=REPORT_S, peak_bytes=resident_bytes() + 50_000_000))


def _run(work: Work) -> Outcome:
    records = work.home.current()
    model_files = [] if work.recipe.only_scores else export_model(work.home, work.recipe, records)
    if "reward" in records:
        model_files += export_reward_model(work.home, work.recipe, records)
    lasting = [file for file in model_files if file.name != FACTS_FILE]  # that one takes in figures of parity later
    card = _alignment_card(work)
    return Outcome(outside=(*lasting, *card, write_report(work.home.folder)))


def _alignment_card(work: Work) -> list[Path]:
    """`alignment_card.md` in the home of a build that learned from judgements."""
    path = work.home.folder / "alignment_card.md"
    text = alignment_part(work.home, work.home.current(), heading=f"# Alignment card of {work.recipe.name}").lstrip()
    if not text:
        with disk_errors(path):
            path.unlink(missing_ok=True)  # of an earlier recipe
        return []
    write_text(path, text)
    return [path]


REPORT = Stage(
    name="report",
    title="Writing the model home and the report",
    version="1",
    needs=("corpus", "tokenizer", "pretrain", "sft", "prefer", "reward", "rl", "evaluate"),
    settings=lambda recipe: {"name": recipe.name},
    forecast=_forecast,
    run=_run,
)
