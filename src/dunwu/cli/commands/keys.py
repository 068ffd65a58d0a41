"""Who may ask a server."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from dunwu.cli.given import DEFAULT_KEYS, work

keyring = App(name="keys", help="Who may ask a server: a file of names and hashes of keys.", help_format="plaintext")
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
    work("keyholders").add(
        name,
        file,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        concurrent_requests=concurrent_requests,
    )


@keyring.command(name="list")
def keys_list(*, file: KeyFile = DEFAULT_KEYS) -> None:
    """Say whose keys there are, since when, and their limits."""
    work("keyholders").show(file)


@keyring.command(name="remove")
def keys_remove(
    name: Annotated[str, Parameter(help="Whose key is taken out; servers that run refuse it at once.")],
    /,
    *,
    file: KeyFile = DEFAULT_KEYS,
) -> None:
    """Take a key out."""
    work("keyholders").remove(name, file)
