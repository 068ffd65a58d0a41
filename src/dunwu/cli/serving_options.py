"""The options of `dunwu serve`; free of torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Listening:
    """Who may ask what, and how long it is waited for."""

    host: Annotated[str, Parameter(help="The address to listen at; others than this machine's own need keys.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Parameter(help="0 takes any free one.")] = 8000
    keys: Annotated[
        Path | None, Parameter(help="A file of API keys, as `dunwu keys` writes it; or set DUNWU_API_KEY to one key.")
    ] = None
    requests_per_minute: Annotated[int, Parameter(help="Of each key; 0 is no limit.")] = 0
    tokens_per_minute: Annotated[int, Parameter(help="Of each key, read and written; 0 is no limit.")] = 0
    concurrent_requests: Annotated[int, Parameter(help="Of each key, at a time; 0 is no limit.")] = 0
    max_body: Annotated[str, Parameter(help="The largest request.")] = "4MB"
    allow_host: Annotated[
        tuple[str, ...], Parameter(help="A name beside localhost by which the server is reached.", negative="")
    ] = ()
    allow_origin: Annotated[
        tuple[str, ...], Parameter(help="A web page that may ask, such as https://example.org.", negative="")
    ] = ()
    max_waiting: Annotated[int, Parameter(help="Answers that may wait; more are told to come back.")] = 256
    request_timeout: Annotated[str, Parameter(help="The longest that one answer may take; 0s is no limit.")] = "10min"
    drain_timeout: Annotated[str, Parameter(help="How long answers may go on after SIGTERM or Ctrl-C.")] = "30s"
    log_prompts: Annotated[bool, Parameter(help="Write what is asked and answered into the log.", negative="")] = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Writing:
    """How each model writes its answers."""

    weights: Annotated[
        Literal["float", "int8", "int4"],
        Parameter(help="In how many bits weights are kept: fewer are faster and coarser."),
    ] = "float"
    cache: Annotated[str, Parameter(help="Memory for the keys and values of each model.")] = "512MB"
    cache_kind: Annotated[
        Literal["float", "int8"], Parameter(help="How keys and values are kept: int8 takes a quarter of the room.")
    ] = "float"
    lookup: Annotated[
        bool, Parameter(help="Guess tokens from the prompt: faster where answers quote it.", negative="")
    ] = False
    draft: Annotated[
        str | None, Parameter(help="A smaller model with the same tokenizer, which guesses tokens ahead.")
    ] = None
    context_length: Annotated[
        int | None, Parameter(help="The most tokens of one conversation; default: the model's.")
    ] = None
    max_sequences: Annotated[int, Parameter(validator=validators.Number(gte=1), help="Answers written at a time.")] = 64
