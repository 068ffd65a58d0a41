"""The lab: why large, and what would larger give."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter, validators

from dunwu.cli.given import AsJson, work
from dunwu.core.errors import RecipeError

lab = App(
    name="lab",
    help="Study models: scaling laws, grokking, emergence, loss curves that explain.",
    help_format="plaintext",
)

Resamples = Annotated[
    int, Parameter(help="Draws of the bootstrap that gives the intervals.", validator=validators.Number(gte=20))
]
DrawSeed = Annotated[int, Parameter(help="The same seed draws the same.", validator=validators.Number(gte=0))]
PageFolder = Annotated[
    Path | None, Parameter(help="A folder for a page with figures, and the numbers as JSON and CSV.")
]

AskedOfHomes = Annotated[
    list[str] | None, Parameter(help="With homes: what to ask them, as `dunwu eval` takes it.", negative="")
]
HowHomesAreAsked = Annotated[
    list[str] | None, Parameter(help="With homes: how to ask, such as chat, cot; may be repeated.", negative="")
]
DrawnOfHomes = Annotated[
    int,
    Parameter(
        help="With homes: answers drawn to each question, for rare successes.", validator=validators.Number(gte=1)
    ),
]


@lab.command(name="scaling")
def scaling(
    file: Annotated[Path, Parameter(help="A .csv or .tsv table: size, tokens or FLOPs, and loss of each run.")],
    /,
    *columns: Annotated[
        str,
        Parameter(help="Where names are unusual: size=COLUMN tokens=COLUMN flops=COLUMN loss=COLUMN run=COLUMN …"),
    ],
    form: Annotated[
        Literal["parametric", "isoflop", "envelope", "power", "repeated"],
        Parameter(
            help="E + A/size^alpha + B/tokens^beta; parabolas at equal compute; the envelope of training curves; a power law of "
            "one quantity (x=COLUMN y=COLUMN); text that is read again and again."
        ),
    ] = "parametric",
    budget: Annotated[
        list[str] | None,
        Parameter(
            help="FLOPs (with --form power: x) of a training to be forecast, such as 1e21; may be repeated.",
            negative="",
        ),
    ] = None,
    leave_out: Annotated[
        int,
        Parameter(
            help="Leave out so many runs with the fewest tokens a parameter.", validator=validators.Number(gte=0)
        ),
    ] = 0,
    floor: Annotated[
        float | None, Parameter(help="A loss that no model goes below, where it is known; otherwise it is fitted.")
    ] = None,
    resamples: Resamples = 200,
    seed: DrawSeed = 0,
    out: PageFolder = None,
    as_json: AsJson = False,
) -> None:
    """Fit a scaling law to training runs, and say what a compute budget would give, with intervals."""
    work("lab_scaling").scaling(
        file,
        columns,
        form=form,
        budgets=budget or [],
        leave_out=leave_out,
        floor=floor,
        resamples=resamples,
        seed=seed,
        out=out,
        as_json=as_json,
    )


@lab.command(name="downstream")
def downstream(
    file: Annotated[Path, Parameter(help="A table of rows: run, size, tokens, task loss, accuracy; and task.")],
    /,
    *columns: Annotated[
        str, Parameter(help="Where names are unusual: run=, size=, tokens=, loss=, accuracy=, task=COLUMN.")
    ],
    target: Annotated[
        list[str],
        Parameter(help="Parameters and tokens of a model to be forecast: 7B,4T; may be repeated.", negative=""),
    ],
    resamples: Resamples = 200,
    seed: DrawSeed = 0,
    out: PageFolder = None,
    as_json: AsJson = False,
) -> None:
    """Forecast a task's accuracy in two steps: its loss from size and tokens, accuracy from its loss."""
    work("lab_scaling").tasks(file, columns, targets=target, resamples=resamples, seed=seed, out=out, as_json=as_json)


@lab.command(name="observe")
def observe(
    file: Annotated[Path, Parameter(help="A table of models: model, family, FLOPs, and scores.")],
    /,
    *columns: Annotated[str, Parameter(help="Where names are unusual: model=, family=, flops=COLUMN.")],
    target: Annotated[str, Parameter(help="The column to be forecast, a share from 0 to 1.")],
    scores: Annotated[
        list[str], Parameter(help="Columns that it is forecast from: MMLU,HellaSwag,…; may be repeated.", negative="")
    ],
    score_table: Annotated[Path | None, Parameter(help="The table that has these, where it is another.")] = None,
    below: Annotated[
        str | None, Parameter(help="Fit to models with fewer FLOPs than this, and forecast the others.")
    ] = None,
    components: Annotated[
        int, Parameter(help="Principal components of the scores.", validator=validators.Number(gte=1))
    ] = 3,
    resamples: Resamples = 200,
    seed: DrawSeed = 0,
    out: PageFolder = None,
    as_json: AsJson = False,
) -> None:
    """Forecast a task from the public scores of many models: capability by family, and a sigmoid of it."""
    work("lab_scaling").observe(
        file,
        columns,
        target=target,
        scores=scores,
        score_table=score_table,
        below=below,
        components=components,
        resamples=resamples,
        seed=seed,
        out=out,
        as_json=as_json,
    )


@lab.command(name="grok")
def grok(
    task: Annotated[
        str, Parameter(help="addition, subtraction, division, quadratic (a² + ab + b²) or s5.")
    ] = "division",
    /,
    *,
    modulus: Annotated[int, Parameter(help="A prime; s5 has none.")] = 97,
    fraction: Annotated[
        list[float] | None,
        Parameter(help="The share of the table to train on, .5 unless given; may be repeated.", negative=""),
    ] = None,
    weight_decay: Annotated[
        list[float] | None, Parameter(help="Weight decay, .1 unless given; may be repeated.", negative="")
    ] = None,
    seeds: Annotated[int, Parameter(help="How many seeds, from 0.", validator=validators.Number(gte=1))] = 3,
    control: Annotated[bool, Parameter(help="Also one network of each fraction without weight decay.")] = True,
    optimizer: Annotated[str, Parameter(help="adamw, adam (weight decay as a penalty) or sgd.")] = "adamw",
    lr: Annotated[float, Parameter(help="The learning rate.")] = 0.0015,
    batch: Annotated[int, Parameter(help="Pairs a step.")] = 512,
    width: Annotated[int, Parameter(help="Of the network.")] = 64,
    heads: Annotated[int, Parameter(help="Of its attention.")] = 4,
    depth: Annotated[int, Parameter(help="Its layers.")] = 1,
    init_scale: Annotated[float, Parameter(help="How large weights start, 1 being usual; larger waits longer.")] = 2.0,
    steps: Annotated[
        int, Parameter(help="The most steps; it ends before, once all with weight decay have understood.")
    ] = 60_000,
    out: Annotated[
        Path | None,
        Parameter(help="A folder for the page and its figures; a run that was stopped goes on from there."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let small networks learn a table from a part of it: they memorise, and long after understand, suddenly."""
    work("lab_grok").grok(
        task,
        fractions=fraction or [0.5],
        decays=[0.1] if weight_decay is None else weight_decay,
        seeds=seeds,
        control=control,
        modulus=modulus,
        optimizer=optimizer,
        lr=lr,
        batch=batch,
        width=width,
        heads=heads,
        depth=depth,
        init_scale=init_scale,
        steps=steps,
        out=out,
        as_json=as_json,
    )


@lab.command(name="curves")
def curves(
    *homes: Annotated[Path, Parameter(help="Homes of builds; those made with pretrain.snapshots=12 show the way too.")],
    texts: Annotated[int, Parameter(help="Held-out texts for in-context learning.")] = 64,
    sequences: Annotated[int, Parameter(help="Sequences of random tokens for induction heads.")] = 16,
    passages: Annotated[int, Parameter(help="Passages of training text, and of held-out text.")] = 512,
    prompt_tokens: Annotated[int, Parameter(help="Tokens of a passage that are given.")] = 32,
    continuation_tokens: Annotated[int, Parameter(help="Tokens that must follow word for word.")] = 32,
    seed: Annotated[int, Parameter(help="The same seed takes the same texts.", validator=validators.Number(gte=0))] = 0,
    out: Annotated[
        Path | None,
        Parameter(help="A folder for the page; what was measured is kept there too, so that a new run goes on."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show when a run learned from its context, grew induction heads, and memorised its text, and what repeats did to its loss."""
    if not homes:
        raise RecipeError("no home given; give the folder that dunwu build made, such as builds/mine")
    work("lab_curves").curves(
        homes,
        {
            "texts": texts,
            "sequences": sequences,
            "passages": passages,
            "prompt": prompt_tokens,
            "continuation": continuation_tokens,
            "seed": seed,
        },
        out=out,
        as_json=as_json,
    )


@lab.command(name="emergence")
def emergence(
    *what: Annotated[
        str,
        Parameter(
            help="A table of scores (.csv, .tsv, .gz), and names of columns where they are unusual: size=COLUMN flops=COLUMN step=COLUMN "
            "task=COLUMN metric=COLUMN value=COLUMN series=COLUMN. Or models: homes, or folders of `dunwu eval` as FOLDER=1.3M."
        ),
    ],
    by: Annotated[
        Literal["size", "flops", "step"] | None,
        Parameter(help="The axis; default: the first of them that the table has."),
    ] = None,
    within: Annotated[
        float | None,
        Parameter(
            help="A jump is a rise within such a factor; default: 10 of size or steps, 100 of FLOPs.",
            validator=validators.Number(gt=1),
        ),
    ] = None,
    forecast: Annotated[
        str | None, Parameter(help="Fit below this size, compute or step, forecast all at and above it: 1e22, 1.3B.")
    ] = None,
    tasks: AskedOfHomes = None,
    solver: HowHomesAreAsked = None,
    samples: DrawnOfHomes = 1,
    temperature: Annotated[float | None, Parameter(help="With homes: default 0, and 1 with --samples.")] = None,
    limit: Annotated[
        int | None,
        Parameter(help="With homes: at most so many questions of a task.", validator=validators.Number(gte=1)),
    ] = None,
    draws: Annotated[
        int,
        Parameter(
            help="Draws of the bootstrap behind each p-value, at the least.", validator=validators.Number(gte=199)
        ),
    ] = 1999,
    seed: DrawSeed = 0,
    out: PageFolder = None,
    as_json: AsJson = False,
) -> None:
    """Do abilities jump with size, and do the jumps survive partial credit? Linearity, breakthroughness and breaks of every curve."""
    options = work("lab_emergence").Options(
        by=by,
        factor=within,
        border=forecast,
        draws=draws,
        seed=seed,
        tasks=tuple(tasks or ()),
        solvers=tuple(solver or ()),
        samples=samples,
        temperature=temperature,
        limit=limit,
        out=out,
        as_json=as_json,
    )
    work("lab_emergence_homes" if tasks else "lab_emergence").emergence(what, options)
