"""The lab: why large, and what would larger give."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter, validators

from dunwu.cli.given import AsJson, work

lab = App(name="lab", help="Study models: scaling laws.", help_format="plaintext")


@lab.command(name="scaling")
def scaling(
    file: Annotated[Path, Parameter(help="A .csv or .tsv table: size, tokens or FLOPs, and loss of each run.")],
    /,
    *columns: Annotated[
        str, Parameter(help="Where names are unusual: size=COLUMN tokens=COLUMN flops=COLUMN loss=COLUMN.")
    ],
    budget: Annotated[
        list[str] | None,
        Parameter(help="FLOPs of a training to be forecast, such as 1e21; may be repeated.", negative=""),
    ] = None,
    leave_out: Annotated[
        int,
        Parameter(
            help="Leave out so many runs with the fewest tokens a parameter.", validator=validators.Number(gte=0)
        ),
    ] = 0,
    resamples: Annotated[
        int, Parameter(help="Draws of the bootstrap that gives the intervals.", validator=validators.Number(gte=20))
    ] = 200,
    seed: Annotated[int, Parameter(help="The same seed draws the same.", validator=validators.Number(gte=0))] = 0,
    out: Annotated[Path | None, Parameter(help="A .json file to write all figures to.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fit loss = E + A/size^alpha + B/tokens^beta to training runs, and say what a compute budget would give, with intervals."""
    work("lab").scaling(
        file,
        columns,
        budgets=budget or [],
        leave_out=leave_out,
        resamples=resamples,
        seed=seed,
        out=out,
        as_json=as_json,
    )
