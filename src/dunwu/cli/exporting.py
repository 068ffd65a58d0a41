"""`dunwu export`."""

from pathlib import Path

from dunwu.build.handover import Form, hand_over, report
from dunwu.cli.talking import model_folder
from dunwu.core.devices import prepare_cpu
from dunwu.core.errors import ModelError
from dunwu.core.screen import harmless


def export(model: str, *, to: Form, dtype: str | None, out: Path | None, check: bool) -> None:
    """Write the model in another form and say how it compares. Raises ModelError where it says something else there."""
    prepare_cpu()
    result = hand_over(model_folder(model), to=to, dtype=dtype, out=out, check=check)
    print(harmless(report(result)))
    if not result.passed:
        said = [
            (one.peer, text)
            for one in result.comparisons
            for text in (*one.problems, *map("note: {}".format, one.notes))
        ]
        problems = "\n".join(f"- {peer}: {text}" for peer, text in said)
        raise ModelError(
            f"the export does not say what the model says; it was left at {result.path} and must not be used:\n{problems}"
        )
