"""`dunwu keys`."""

import sys
from pathlib import Path

from dunwu.core.screen import harmless
from dunwu.serve.keys import Key, add_key, read_keys, remove_key


def add(name: str, file: Path, **limits: int | None) -> None:
    """Print the new key alone on standard output, so that a script can take it; the rest goes to standard error."""
    secret = add_key(file, name, **limits)
    print(secret)
    print(
        f"The key of {name}, shown this once; {harmless(str(file))} keeps a hash of it. Use it with:\n"
        f"  dunwu serve MODEL --keys {harmless(str(file))}\n"
        "  curl -H 'Authorization: Bearer KEY' …, or OPENAI_API_KEY=KEY",
        file=sys.stderr,
    )


def show(file: Path) -> None:
    """One line a key."""
    for key in read_keys(file):
        print(f"{key.name}  since {harmless(key.created)}{_limits(key)}")


def _limits(key: Key) -> str:
    facts = {
        "requests a minute": key.requests_per_minute,
        "tokens a minute": key.tokens_per_minute,
        "requests at a time": key.concurrent_requests,
    }
    return "".join(f"  {value} {what}" for what, value in facts.items() if value is not None)


def remove(name: str, file: Path) -> None:
    """Say that it is gone."""
    remove_key(file, name)
    print(f"{name} has no key any more")
