"""Arguments that several commands take, and the way from a command to what does its work."""

import importlib
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, validators

from dunwu.core.errors import MissingExtraError

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
AsJson = Annotated[bool, Parameter(name="--json", help="Print JSON.", negative="")]
Strategy = Annotated[
    str | None,
    Parameter(help="How the question is put: cot, think-first, cot+self-consistency:n=8, …; see docs/prompting.md."),
]
MaxTokens = Annotated[int, Parameter(validator=validators.Number(gte=1), help="The most tokens of one answer.")]

DEFAULT_KEYS = Path("keys.json")

SERVER_PACKAGES = frozenset({"fastapi", "prometheus_client", "starlette", "uvicorn"})


def work(module: str) -> Any:
    """The module that does the work, with torch behind it. Raises MissingExtraError where a server's libraries are not there."""
    try:
        return importlib.import_module(f"dunwu.cli.{module}")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in SERVER_PACKAGES:
            raise
        raise MissingExtraError(package, "serve", "a server") from error
