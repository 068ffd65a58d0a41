"""What the home shows the world: the finished model in `model/`, and the whole build on one page, `report.html`."""

from dunwu.build.costs import REPORT_S
from dunwu.build.export import FACTS_FILE, export_model
from dunwu.build.graph import Outcome, Outlook, Stage, Work
from dunwu.build.home import Figures, Forecast
from dunwu.build.meters import resident_bytes
from dunwu.build.report import write_report


def _forecast(outlook: Outlook) -> Forecast:
    return Forecast(predicted=Figures(seconds=REPORT_S, peak_bytes=resident_bytes() + 50_000_000))


def _run(work: Work) -> Outcome:
    model_files = export_model(work.home, work.recipe, work.home.current())
    lasting = [file for file in model_files if file.name != FACTS_FILE]  # that one takes in figures of parity later
    return Outcome(outside=(*lasting, write_report(work.home.folder)))


REPORT = Stage(
    name="report",
    title="Writing the model home and the report",
    version="1",
    needs=("corpus", "tokenizer", "pretrain", "sft", "prefer", "rl", "evaluate"),
    settings=lambda recipe: {"name": recipe.name},
    forecast=_forecast,
    run=_run,
)
