"""A name with options, as it is written in a recipe or on a command line: `self-consistency:n=8,temperature=0.7`."""

import difflib
from collections.abc import Iterable

from dunwu.core.errors import RecipeError


def named_options(text: str) -> tuple[str, dict[str, str]]:
    """The name and the options. Raises RecipeError for what is no `key=value`."""
    name, _, rest = text.strip().partition(":")
    options: dict[str, str] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key or key in options:
            fault = f"gives {key} twice" if key in options else f"has {part!r}, which is no key=value"
            raise RecipeError(f"{text!r} {fault}; write it like self-consistency:n=8,temperature=0.7")
        options[key] = value.strip()
    return name.strip(), options


def require_known(name: str, known: Iterable[str], what: str) -> None:
    """Raises RecipeError for a name that is none of these, with the nearest one."""
    names = list(known)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        remedy = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names)}"
        raise RecipeError(f"there is no {what} {name!r}; {remedy}")
