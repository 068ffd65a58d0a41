"""The command line. Nothing here imports torch: what a command needs is loaded when it runs, so that help is instant."""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from cyclopts import App, CycloptsError, Parameter, validators

from dunwu import __version__
from dunwu.cli.failures import Crash, crash_log
from dunwu.cli.making_options import Making
from dunwu.core.errors import DunwuError, MissingExtraError
from dunwu.core.screen import harmless
from dunwu.train.signals import Interrupted

app = App(
    name="dunwu",
    version=__version__,
    help="Grow your own language model from a folder of documents, on the machine that you have.",
    help_format="plaintext",
)
Model = Annotated[str, Parameter(help="A build's home, a model's folder, or owner/name on a hub.")]
Revision = Annotated[str | None, Parameter(help="A branch, tag or commit on the hub.")]
Temperature = Annotated[float, Parameter(help="0 always takes the likeliest token; 1 follows the model's odds.")]
Seed = Annotated[int | None, Parameter(help="The same seed gives the same words.")]
Url = Annotated[
    str | None, Parameter(help="An OpenAI-compatible endpoint, such as http://HOST:8000/v1; MODEL is its name there.")
]
KeyEnv = Annotated[str, Parameter(help="With --url: the environment's variable that holds the endpoint's key.")]
DeltaName = Annotated[
    str | None, Parameter(help="A delta on the model: a name in the registry, or the folder of an adapter.")
]
Registry = Annotated[
    Path | None, Parameter(help="The folder of deltas; default: $DUNWU_DELTAS, else the user's folder of data.")
]
AnyBase = Annotated[bool, Parameter(help="Take a delta of another base that fits.", negative="")]
MaxTokens = Annotated[int, Parameter(validator=validators.Number(gte=1), help="The most tokens of one answer.")]

DEFAULT_KEYS = Path("keys.json")
SERVER_PACKAGES = frozenset({"fastapi", "prometheus_client", "starlette", "uvicorn"})


@app.command
def build(*words: str) -> None:
    """Build a model from a recipe or a folder of documents.

    dunwu build [RECIPE | FOLDER | FILE] [key=value ...]

    Without an argument: the default recipe. A folder, or a single document, is a recipe by itself.
    What is finished is kept: the same command goes on where it stopped.

    Any key of a recipe can be given, with dots: budget=30min  memory=8GB  out=FOLDER  seed=1
    model.hidden_size=256  pretrain.tokens=5000000  corpus.sources.0.path=books

    Parameters
    ----------
    words
        [RECIPE | FOLDER | FILE] [key=value ...]
    """
    _commands("building").build(words)


@app.command
def plan(*words: str) -> None:
    """Say what `dunwu build` with the same words would do, take and give, without doing it.

    Parameters
    ----------
    words
        [RECIPE | FOLDER | FILE] [key=value ...]
    """
    _commands("building").plan(words)


@app.command
def tune(
    model: Model,
    /,
    *data: str,
    method: Annotated[
        str,
        Parameter(
            help="What learns beside the frozen model, such as lora, qlora (on a base of 4 bits); full lets all weights learn."
        ),
    ] = "lora",
    out: Annotated[
        Path | None, Parameter(help="The folder of the build; builds/NAME-tuned where none is given.")
    ] = None,
    dry_run: Annotated[
        bool, Parameter(name="--plan", help="Say what it would do, take and give.", negative="")
    ] = False,
) -> None:
    """Tune a model on conversations: a build whose recipe has a base, these files, and no corpus.

    dunwu tune MODEL FILE [FILE ...] [key=value ...]

    What is finished is kept: the same command goes on where it stopped. Any key of a recipe can be given, with dots:
    budget=1h  sft.epochs=3  sft.delta.r=16  "sft.delta.targets=[q_proj, v_proj]"  sft.delta_merged=false

    Parameters
    ----------
    data
        FILE ... [key=value ...]: instruction data as Alpaca, ShareGPT, messages, or prompt and completion
    """
    from_command = _commands("tuning").words(model, data, method=method, out=out)
    (_commands("building").plan if dry_run else _commands("building").build)(from_command)


@app.command
def align(
    model: Model,
    /,
    *data: str,
    method: Annotated[str, Parameter(help="How preferences are learned: dpo, ipo, kto, orpo, simpo or cpo.")] = "dpo",
    delta: Annotated[
        str, Parameter(help="What learns beside the frozen model, such as lora; full lets all weights learn.")
    ] = "lora",
    out: Annotated[
        Path | None, Parameter(help="The folder of the build; builds/NAME-aligned where none is given.")
    ] = None,
    dry_run: Annotated[
        bool, Parameter(name="--plan", help="Say what it would do, take and give.", negative="")
    ] = False,
) -> None:
    """Let a model learn preferences: a build whose recipe has a base, these files, and no corpus.

    dunwu align MODEL FILE [FILE ...] [key=value ...]

    What is finished is kept: the same command goes on where it stopped. Any key of a recipe can be given, with dots:
    budget=1h  prefer.epochs=2  prefer.objective.beta=0.05  prefer.lr_adamw=1e-4  sft.system_prompt="..."

    Parameters
    ----------
    data
        FILE ... [key=value ...]: pairs of a chosen and a rejected answer, judged or scored answers; for kto labelled ones too
    """
    from_command = _commands("tuning").preferring_words(model, data, method=method, delta=delta, out=out)
    (_commands("building").plan if dry_run else _commands("building").build)(from_command)


@app.command
def status(*words: str) -> None:
    """Show how far builds are: those below ./builds, or the one of a recipe or home.

    Parameters
    ----------
    words
        [HOME | RECIPE | FOLDER] [key=value ...]
    """
    _commands("building").status(words)


@app.command
def explain(stage: str, /, *words: str) -> None:
    """Say why a stage would run again, or that it would not.

    Parameters
    ----------
    stage
        base, corpus, replay, tokenizer, pretrain, sft, prefer, evaluate or report
    words
        [RECIPE | FOLDER | FILE] [key=value ...], as given to `dunwu build`
    """
    _commands("building").explain(stage, words)


@app.command
def show_batch(
    *words: str,
    rows: Annotated[int, Parameter(validator=validators.Number(gte=1), help="How many rows.")] = 4,
    first_row: Annotated[int, Parameter(validator=validators.Number(gte=0), help="Where in the run to look.")] = 0,
    tokenizer: Annotated[
        Path | None, Parameter(help="A model's folder to cut text by; default: the build's own, or the base's.")
    ] = None,
    context_length: Annotated[
        int | None, Parameter(validator=validators.Number(gte=16), help="Tokens of a row; default: the build's.")
    ] = None,
) -> None:
    """Show what fine-tuning would learn from: rows of conversations, coloured by what is learned. Nothing is trained.

    What the reader left out, what was cut and how full the rows are goes to standard error. Piped, what is learned stands
    between ⟦ and ⟧.

    Parameters
    ----------
    words
        [RECIPE | FOLDER | FILE] [key=value ...], as given to `dunwu build`
    """
    _commands("showing").show_batch(
        words, rows=rows, first_row=first_row, tokenizer=tokenizer, context_length=context_length
    )


@app.command
def chat(
    model: Model,
    /,
    *,
    delta: DeltaName = None,
    registry: Registry = None,
    any_base: AnyBase = False,
    system: Annotated[str | None, Parameter(help="Instructions that stand before the conversation.")] = None,
    temperature: Temperature = 0.7,
    seed: Seed = None,
    max_tokens: MaxTokens = 512,
    url: Url = None,
    key_env: KeyEnv = "OPENAI_API_KEY",
) -> None:
    """Talk to a model. /help lists what can be changed on the way."""
    if url is not None:
        how = {"system": system, "temperature": temperature, "seed": seed, "max_tokens": max_tokens}
        _commands("remote").chat(f"{model}:{delta}" if delta else model, url, key_env=key_env, **how)
        return
    _commands("talking").chat(
        model,
        delta=delta,
        registry=registry,
        any_base=any_base,
        system=system,
        temperature=temperature,
        seed=seed,
        max_tokens=max_tokens,
    )


@app.command
def generate(
    model: Model,
    prompt: Annotated[str, Parameter(help="What to answer, or to continue; - reads it from standard input.")],
    /,
    *,
    delta: DeltaName = None,
    registry: Registry = None,
    any_base: AnyBase = False,
    system: Annotated[str | None, Parameter(help="Instructions that stand before the prompt.")] = None,
    raw: Annotated[bool, Parameter(help="Continue the text as it is, without the chat template.", negative="")] = False,
    schema: Annotated[
        Path | None, Parameter(help="A file with a JSON schema: the answer is JSON that it holds valid.")
    ] = None,
    regex: Annotated[str | None, Parameter(help="A regular expression that the whole answer matches.")] = None,
    choice: Annotated[
        list[str] | None, Parameter(help="What the answer may be; give it once for each choice.", negative="")
    ] = None,
    beams: Annotated[
        int | None, Parameter(help="Search for the likeliest answer with so many beams, instead of drawing one.")
    ] = None,
    temperature: Temperature = 0.7,
    seed: Seed = None,
    max_tokens: MaxTokens = 256,
    url: Url = None,
    key_env: KeyEnv = "OPENAI_API_KEY",
) -> None:
    """Answer one prompt, or continue it where the model was not tuned to answer.

    With --schema, --regex or --choice nothing but the answer, which keeps to it, goes to standard output.
    """
    if url is not None:
        how = {"system": system, "temperature": temperature, "seed": seed, "max_tokens": max_tokens, "schema": schema}
        for_this_machine = {"--raw": raw, "--regex": regex is not None, "--choice": choice is not None}
        for_this_machine["--beams"] = beams is not None
        name = f"{model}:{delta}" if delta else model
        _commands("remote").generate(name, url, prompt, key_env=key_env, refused=for_this_machine, **how)
        return
    _commands("talking").generate(
        model,
        prompt,
        delta=delta,
        registry=registry,
        any_base=any_base,
        system=system,
        raw=raw,
        schema=schema,
        regex=regex,
        choice=choice,
        beams=beams,
        temperature=temperature,
        seed=seed,
        max_tokens=max_tokens,
    )


@app.command
def serve(
    *models: Annotated[
        str,
        Parameter(
            help="A build's home, a model's folder or owner/name on a hub; NAME=… renames it. Or one gateway.yaml."
        ),
    ],
    delta: Annotated[
        tuple[str, ...],
        Parameter(
            help="A delta over the models: a name in the registry, or NAME=FOLDER of an adapter; clients ask for MODEL:NAME.",
            negative="",
        ),
    ] = (),
    deltas: Annotated[
        Literal["none", "all"],
        Parameter(help="all: every delta of the registry that was trained on one of the models, new ones too."),
    ] = "none",
    registry: Registry = None,
    host: Annotated[
        str, Parameter(help="The address to listen at; others than this machine's own need keys.")
    ] = "127.0.0.1",
    port: Annotated[int, Parameter(help="0 takes any free one.")] = 8000,
    keys: Annotated[
        Path | None, Parameter(help="A file of API keys, as `dunwu keys` writes it; or set DUNWU_API_KEY to one key.")
    ] = None,
    requests_per_minute: Annotated[int, Parameter(help="Of each key; 0 is no limit.")] = 0,
    tokens_per_minute: Annotated[int, Parameter(help="Of each key, read and written; 0 is no limit.")] = 0,
    concurrent_requests: Annotated[int, Parameter(help="Of each key, at a time; 0 is no limit.")] = 0,
    max_body: Annotated[str, Parameter(help="The largest request.")] = "4MB",
    allow_host: Annotated[
        tuple[str, ...], Parameter(help="A name beside localhost by which the server is reached.", negative="")
    ] = (),
    allow_origin: Annotated[
        tuple[str, ...], Parameter(help="A web page that may ask, such as https://example.org.", negative="")
    ] = (),
    weights: Annotated[
        Literal["float", "int8", "int4"],
        Parameter(help="In how many bits weights are kept: fewer are faster and coarser."),
    ] = "float",
    cache: Annotated[str, Parameter(help="Memory for the keys and values of each model.")] = "512MB",
    cache_kind: Annotated[
        Literal["float", "int8"], Parameter(help="How keys and values are kept: int8 takes a quarter of the room.")
    ] = "float",
    lookup: Annotated[
        bool, Parameter(help="Guess tokens from the prompt: faster where answers quote it.", negative="")
    ] = False,
    draft: Annotated[
        str | None, Parameter(help="A smaller model with the same tokenizer, which guesses tokens ahead.")
    ] = None,
    context_length: Annotated[
        int | None, Parameter(help="The most tokens of one conversation; default: the model's.")
    ] = None,
    max_sequences: Annotated[
        int, Parameter(validator=validators.Number(gte=1), help="Answers written at a time.")
    ] = 64,
    max_waiting: Annotated[int, Parameter(help="Answers that may wait; more are told to come back.")] = 256,
    request_timeout: Annotated[str, Parameter(help="The longest that one answer may take; 0s is no limit.")] = "10min",
    drain_timeout: Annotated[str, Parameter(help="How long answers may go on after SIGTERM or Ctrl-C.")] = "30s",
    log_prompts: Annotated[bool, Parameter(help="Write what is asked and answered into the log.", negative="")] = False,
) -> None:
    """Serve models to any OpenAI client, and a page to talk to them, until Ctrl-C."""
    _commands("serving").serve(
        models,
        host=host,
        port=port,
        keys=keys,
        limits={
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
            "max_concurrency_per_key": concurrent_requests,
        },
        max_body=max_body,
        allowed_hosts=allow_host,
        allowed_origins=allow_origin,
        weights=weights,
        cache=cache,
        cache_kind=cache_kind,
        lookup=lookup,
        draft=draft,
        context_length=context_length,
        max_sequences=max_sequences,
        max_waiting=max_waiting,
        request_timeout=request_timeout,
        drain_timeout=drain_timeout,
        log_prompts=log_prompts,
        delta=delta,
        deltas=deltas,
        registry=registry,
    )


@app.command(name="import")
def import_(
    source: Annotated[str, Parameter(help="A Hugging Face folder, owner/name on a hub, a .gguf, or a llama2.c .bin.")],
    /,
    *,
    out: Annotated[Path | None, Parameter(help="The folder to make; default: models/NAME.")] = None,
    tokenizer: Annotated[Path | None, Parameter(help="A llama2.c checkpoint's tokenizer, if not beside it.")] = None,
    revision: Revision = None,
) -> None:
    """Make a model of another project ready for use here: a folder with its weights, tokenizer and where it came from."""
    _commands("models").import_(source, out=out, tokenizer=tokenizer, revision=revision)


@app.command
def export(
    model: Model,
    /,
    *,
    to: Annotated[
        Literal["hf", "gguf"], Parameter(help="A Hugging Face folder, or one GGUF file for llama.cpp.")
    ] = "hf",
    dtype: Annotated[
        str | None,
        Parameter(help="hf: f32, f16, bf16; default: as stored. gguf: also q8_0, q4_k_m and the like; default: f16."),
    ] = None,
    out: Annotated[
        Path | None, Parameter(help="The folder or file to make; default: the model's name, in this folder.")
    ] = None,
    check: Annotated[
        bool, Parameter(help="Compare tokens, template, logits and 64 greedy tokens in the engine that will run it.")
    ] = True,
) -> None:
    """Write a model for other engines, and refuse to call it good where they would say something else."""
    _commands("exporting").export(model, to=to, dtype=dtype, out=out, check=check)


@app.command
def quantise(
    model: Model,
    /,
    *,
    weights: Annotated[Literal["float", "int8", "int4"], Parameter(help="Bits of the matrices.")] = "int8",
    cache_kind: Annotated[Literal["float", "int8"], Parameter(help="Bits of keys and values.")] = "float",
    text: Annotated[
        Path | None, Parameter(help="A text to judge by; default: the documentation of this Python.")
    ] = None,
    windows: Annotated[
        int, Parameter(validator=validators.Number(gte=2), help="How many stretches of the text are read.")
    ] = 24,
) -> None:
    """Say what fewer bits save and cost: perplexity before and after on a text, size and speed. Nothing is written."""
    _commands("quantising").quantising(model, weights=weights, cache=cache_kind, text=text, windows=windows)


@app.command
def inspect(
    model: Model,
    /,
    *,
    as_json: Annotated[bool, Parameter(name="--json", help="Print JSON.", negative="")] = False,
    revision: Revision = None,
) -> None:
    """Say what a model is: shape, parameters, memory, context, licence, template. Its config.json alone is enough."""
    _commands("models").inspect(model, as_json=as_json, revision=revision)


deltas = App(name="delta", help="Finished deltas: kept, looked at, merged, handed on.", help_format="plaintext")
app.command(deltas)
AsJson = Annotated[bool, Parameter(name="--json", help="Print JSON.", negative="")]
DeltaArgument = Annotated[str, Parameter(help="The delta's name in the registry.")]
AnyDelta = Annotated[str, Parameter(help="A name in the registry, or the folder of an adapter.")]


@deltas.command(name="list")
def delta_list(
    *,
    for_: Annotated[str | None, Parameter(name="--for", help="Only those of this model.")] = None,
    as_json: AsJson = False,
    registry: Registry = None,
) -> None:
    """Say which deltas there are: method, size, base. Damaged entries are named."""
    _commands("deltas").show_all(registry, base=for_, as_json=as_json)


@deltas.command(name="show")
def delta_show(name: DeltaArgument, /, *, as_json: AsJson = False, registry: Registry = None) -> None:
    """Say all that is known of a delta, and check its files."""
    _commands("deltas").show(name, registry, as_json=as_json)


@deltas.command(name="add")
def delta_add(
    path: Annotated[str, Parameter(help="The folder of an adapter (peft's too), or a build that trained one.")],
    /,
    *,
    name: Annotated[str, Parameter(help="What to call it.")],
    base: Annotated[
        str | None, Parameter(help="The model that it was trained on, if its files do not lead there.")
    ] = None,
    licence: Annotated[str | None, Parameter(help="Under which it may be used; default: what the build says.")] = None,
    note: Annotated[str, Parameter(help="A line on what it is for.")] = "",
    any_base: AnyBase = False,
    registry: Registry = None,
) -> None:
    """Put a delta into the registry, with its base's hash, data, scores, size and licence."""
    _commands("deltas").add(path, registry, name=name, base=base, licence=licence, note=note, any_base=any_base)


@deltas.command(name="remove")
def delta_remove(name: DeltaArgument, /, *, registry: Registry = None) -> None:
    """Take a delta out of the registry, a damaged one too."""
    _commands("deltas").remove(name, registry)


@deltas.command(name="merge")
def delta_merge(
    base: Model,
    delta: AnyDelta,
    /,
    *,
    out: Annotated[Path | None, Parameter(help="The folder to make; default: models/BASE-DELTA.")] = None,
    weights: Annotated[
        Literal["float", "int8", "int4"], Parameter(help="Say also what rounding to so few bits would lose.")
    ] = "float",
    any_base: AnyBase = False,
    registry: Registry = None,
) -> None:
    """Write a model with the delta in its weights, for programs that know no deltas."""
    _commands("deltas").merge(base, delta, registry, out=out, weights=weights, any_base=any_base)


@deltas.command(name="combine")
def delta_combine(
    base: Model,
    /,
    *names: Annotated[str, Parameter(help="Two deltas or more: names in the registry, or folders of adapters.")],
    name: Annotated[str, Parameter(help="What the new delta is called.")],
    how: Annotated[
        Literal["linear", "ties", "dare"],
        Parameter(help="A weighed sum; TIES: what agrees in sign; DARE: a random part of each, enlarged."),
    ] = "linear",
    weights: Annotated[str | None, Parameter(help="How often each counts, such as 0.5,0.5; default: once.")] = None,
    density: Annotated[
        float | None, Parameter(help="The share of its numbers that each keeps; default: ties 0.2, dare 0.5.")
    ] = None,
    rank: Annotated[int | None, Parameter(help="The most that a result of LoRA's kin has.")] = None,
    seed: Annotated[int, Parameter(help="What DARE drops.")] = 0,
    licence: Annotated[str | None, Parameter(help="Of the new one; default: theirs, where they agree.")] = None,
    note: Annotated[str, Parameter(help="A line for those who look it up.")] = "",
    any_base: AnyBase = False,
    registry: Registry = None,
) -> None:
    """Make one delta of several over one base, without training."""
    given = {"weights": weights, "density": density, "rank": rank, "seed": seed, "licence": licence, "note": note}
    _commands("deltas").combine(base, names, registry, name=name, how=how, any_base=any_base, **given)


@deltas.command(name="push")
def delta_push(
    name: DeltaArgument,
    to: Annotated[str, Parameter(help="Another registry: a shared folder, or owner/name on a hub.")],
    /,
    *,
    registry: Registry = None,
) -> None:
    """Copy a delta into another registry."""
    _commands("deltas").push(name, to, registry)


@deltas.command(name="pull")
def delta_pull(
    name: DeltaArgument,
    source: Annotated[str, Parameter(help="Another registry: a shared folder, or owner/name on a hub.")],
    /,
    *,
    registry: Registry = None,
) -> None:
    """Copy a delta of another registry into this one, once its checksums are right."""
    _commands("deltas").pull(name, source, registry)


keyring = App(name="keys", help="Who may ask a server: a file of names and hashes of keys.", help_format="plaintext")
app.command(keyring)
KeyFile = Annotated[Path, Parameter(name="--file", help="The file of keys.")]
KeyLimit = Annotated[int | None, Parameter(help="Of this key; default: what the server says.")]


@keyring.command(name="add")
def keys_add(
    name: Annotated[str, Parameter(help="Whose key it is; logs and limits go by it.")],
    /,
    *,
    file: KeyFile = DEFAULT_KEYS,
    requests_per_minute: KeyLimit = None,
    tokens_per_minute: KeyLimit = None,
    concurrent_requests: KeyLimit = None,
) -> None:
    """Make a key and print it, once: the file keeps a hash of it. Servers that run take it at once."""
    _commands("keyholders").add(
        name,
        file,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        concurrent_requests=concurrent_requests,
    )


@keyring.command(name="list")
def keys_list(*, file: KeyFile = DEFAULT_KEYS) -> None:
    """Say whose keys there are, since when, and their limits."""
    _commands("keyholders").show(file)


@keyring.command(name="remove")
def keys_remove(
    name: Annotated[str, Parameter(help="Whose key is taken out; servers that run refuse it at once.")],
    /,
    *,
    file: KeyFile = DEFAULT_KEYS,
) -> None:
    """Take a key out."""
    _commands("keyholders").remove(name, file)


maker = App(
    name="make",
    help="Make instruction data with a model: of your own documents, or of tasks that are there.",
    help_format="plaintext",
)
app.command(maker)


@maker.command(name="qa")
def make_qa(
    documents: Annotated[Path, Parameter(help="A folder of documents (PDF, Word, HTML, text, …), or one of them.")],
    /,
    *,
    making: Making,
    pairs: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=20), help="Questions of each passage.")] = 3,
    passage_chars: Annotated[
        int, Parameter(validator=validators.Number(gte=100), help="About how long a passage is; default: 1500.")
    ] = 1500,
    check: Annotated[
        Literal["both", "words", "model", "none"],
        Parameter(help="How the passage must support an answer: by its words, by the model's second look, or both."),
    ] = "both",
    with_passage: Annotated[
        bool, Parameter(help="Put the passage before the question in each row.", negative="")
    ] = False,
    redact: Annotated[bool, Parameter(help="Take personal data out of the passages first.")] = True,
) -> None:
    """Questions and answers on your own documents, each supported by a passage that the row names."""
    how = {
        "pairs": pairs,
        "passage_chars": passage_chars,
        "check": check,
        "with_passage": with_passage,
        "redact": redact,
    }
    _commands("making").qa(documents, making, **how)


SeedFile = Annotated[Path, Parameter(help="A .json or .jsonl file of tasks, in any instruction format.")]


@maker.command(name="self-instruct")
def make_self_instruct(seeds: SeedFile, /, *, making: Making) -> None:
    """New tasks like some tens of yours, with inputs and outputs (Self-Instruct, arXiv:2212.10560)."""
    _commands("making").self_instruct(seeds, making)


@maker.command(name="unnatural")
def make_unnatural(
    seeds: SeedFile,
    /,
    *,
    making: Making,
    paraphrases: Annotated[int, Parameter(help="Other ways to say each instruction, each a row: 0 to 8.")] = 0,
) -> None:
    """New tasks with inputs and constraints, three of yours shown at a time (Unnatural Instructions, arXiv:2212.09689)."""
    _commands("making").unnatural(seeds, making, paraphrases=paraphrases)


@maker.command(name="evolve")
def make_evolve(
    instructions: SeedFile,
    /,
    *,
    making: Making,
    generations: Annotated[int, Parameter(help="How many times each instruction is evolved: 1 to 20.")] = 4,
) -> None:
    """Your instructions made harder, or anew after their model, and answered (Evol-Instruct, WizardLM, arXiv:2304.12244)."""
    _commands("making").evolve(instructions, making, generations=generations)


def _commands(module: str) -> Any:
    """The module that does the work, with torch behind it. Raises MissingExtraError where a server's libraries are not there."""
    try:
        return importlib.import_module(f"dunwu.cli.{module}")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in SERVER_PACKAGES:
            raise
        raise MissingExtraError(package, "serve", "a server") from error


def main() -> NoReturn:
    """Run a command. Exit codes: 0 done, 1 a fault of dunwu's own, 2 something to mend, 130 and 143 stopped."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command; returns the exit code."""
    try:
        with crash_log():
            app(list(arguments), exit_on_error=False, print_error=False, result_action="return_value")
    except (DunwuError, CycloptsError) as error:
        return _end(str(error), 2)
    except Crash as error:
        return _end(str(error), 1)
    except Interrupted as stopped:
        return _end(str(stopped), stopped.exit_code)
    except KeyboardInterrupt:
        return _end("stopped by Ctrl-C", 130)
    except BrokenPipeError:  # whoever read our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _end(message: str, code: int) -> int:
    print(f"dunwu: {harmless(message)}", file=sys.stderr)  # it may quote a document, or the name of one
    return code
