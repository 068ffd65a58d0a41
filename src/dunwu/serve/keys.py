"""Who may ask. The file of keys holds a name and a salted hash of each key, never the key.

The hash is one SHA-256: a key has 256 random bits, which no number of guesses finds, so that a slow hash (scrypt) would guard
nothing, and would let anybody who sends wrong keys keep the server busy.
"""

import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable, Generator, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from dunwu.core.errors import DataError, RecipeError
from dunwu.core.files import atomic_write
from dunwu.serve.errors import ApiError
from dunwu.serve.visit import visit_of

PREFIX = "dw-"
ENVIRONMENT_NAME = "environment"
SHORTEST_KEY = 16
_OTHERS_WRITE, _OTHERS_READ = 0o022, 0o044
_MEND = "mend it, or put a copy from before in its place: without it every key that is in use is lost"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Key(BaseModel):
    """One line of the file. Limits of None are the server's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=f"^{_NAME.pattern}$")
    salt: str
    sha256: str
    created: str
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    concurrent_requests: int | None = Field(default=None, ge=1)


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[Key, ...] = ()


def new_key(name: str, **limits: int | None) -> tuple[str, Key]:
    """A key for `name`, and what is kept of it."""
    secret = PREFIX + secrets.token_urlsafe(32)
    return secret, _kept(name, secret, **limits)


def _kept(name: str, secret: str, **limits: int | None) -> Key:
    salt = secrets.token_hex(16)
    stamp = datetime.now(UTC).isoformat(timespec="seconds")
    return Key(name=name, salt=salt, sha256=_hash(salt, secret), created=stamp, **limits)


def _hash(salt: str, secret: str) -> str:
    return hashlib.sha256(f"{salt}:{secret}".encode("utf-8", "surrogateescape")).hexdigest()


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys of a file. Raises DataError where it is missing or damaged, or where others may write it."""
    try:
        text, mode = path.read_text("utf-8"), path.stat().st_mode
        if os.name == "posix" and mode & _OTHERS_WRITE:
            raise DataError(
                f"{path} can be written by others (mode {mode & 0o777:o}), who could let themselves in; chmod 600 it, "
                "and see whether you know each key in it: dunwu keys list"
            )
        return _File.model_validate_json(text).keys
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; make a first key: dunwu keys add NAME") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8; {_MEND}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise DataError(f"{path}: {place}{': ' if place else ''}{fault['msg']}; {_MEND}") from error


def add_key(path: Path, name: str, **limits: int | None) -> str:
    """Make a key and write it down; gives the key, which nobody can tell again. Raises RecipeError for a bad or taken name."""
    if not _NAME.fullmatch(name):
        raise RecipeError(f"name={name!r} must be 1 to 64 of A-Z a-z 0-9 . _ -, and begin with a letter or digit")
    for limit, value in limits.items():
        if value is not None and value < 1:
            raise RecipeError(f"{limit}={value} must be at least 1; leave it out for the server's own")
    with _changing(path):
        keys = read_keys(path) if path.exists() else ()
        if name == ENVIRONMENT_NAME or any(key.name == name for key in keys):
            raise RecipeError(f"there is a key named {name!r}; choose another name, or remove it first")
        secret, key = new_key(name, **limits)
        _write(path, (*keys, key))
    return secret


def remove_key(path: Path, name: str) -> None:
    """Take a key out. Raises RecipeError where there is none of this name."""
    with _changing(path):
        keys = read_keys(path)
        left = tuple(key for key in keys if key.name != name)
        if len(left) == len(keys):
            known = ", ".join(key.name for key in keys) or "none"
            raise RecipeError(f"there is no key named {name!r} in {path}; there is: {known}")
        _write(path, left)


@contextlib.contextmanager
def _changing(path: Path) -> Generator[None]:
    """One at a time: two who add a key at once both find theirs in the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write(path: Path, keys: Iterable[Key]) -> None:
    text = _File(keys=tuple(keys)).model_dump_json(indent=2, exclude_none=True) + "\n"
    with atomic_write(path, mode=0o600) as file:
        file.write(text.encode())


class Keyring:
    """The keys that open this server: those of a file, read again when it changes, and one of the environment.

    A file that went missing opens nothing; one that is damaged leaves those that were known. `tell` hears of either.
    """

    def __init__(
        self,
        path: Path | None = None,
        environment: str | None = None,
        *,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        if environment is not None and len(environment) < SHORTEST_KEY:
            raise RecipeError(
                f"DUNWU_API_KEY has {len(environment)} characters and needs at least {SHORTEST_KEY}; take the output of "
                "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
        self._path = path
        self._own = () if environment is None else (_kept(ENVIRONMENT_NAME, environment),)
        self._stamp: tuple[int, ...] | None = None
        self._listed: tuple[Key, ...] = ()
        self._tell = tell or (lambda _: None)
        if path is not None:
            self._listed, self._stamp = read_keys(path), _stamp(path)
            self._warn(path)

    @property
    def closed(self) -> bool:
        """Whether a key is needed at all."""
        return self._path is not None or bool(self._own)

    def find(self, secret: str) -> Key | None:
        """Whose key this is. All are compared, each in constant time, so that the time says nothing."""
        self._reload()
        found = None
        for key in (*self._own, *self._listed):
            if hmac.compare_digest(_hash(key.salt, secret), key.sha256):
                found = key
        return found

    def _reload(self) -> None:
        if self._path is None or (stamp := _stamp(self._path)) == self._stamp:
            return
        self._stamp = stamp
        if stamp is None:
            self._listed = ()
            self._tell(f"{self._path} is gone: none of its keys is valid")
            return
        try:
            self._listed = read_keys(self._path)
            self._warn(self._path)
        except (DataError, OSError) as error:
            self._tell(f"{error}; the keys from before stay valid")

    def _warn(self, path: Path) -> None:
        mode = path.stat().st_mode
        if os.name == "posix" and mode & _OTHERS_READ:
            self._tell(
                f"{path} can be read by others (mode {mode & 0o777:o}): it holds names and limits; chmod 600 {path}"
            )


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size, stat.st_mode


class Keyed:
    """Lets in whoever shows a key as `Authorization: Bearer …`; `open_paths` need none, nor does asking what may be asked."""

    def __init__(self, app: ASGIApp, keyring: Keyring, open_paths: Iterable[str] = ()) -> None:
        self.app, self.keyring, self.open_paths = app, keyring, frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self.keyring.closed or self._is_open(scope):
            await self.app(scope, receive, send)
            return
        scheme, _, secret = Headers(scope=scope).get("authorization", "").partition(" ")
        key = self.keyring.find(secret.strip()) if scheme.lower() == "bearer" and secret else None
        if key is None:
            what = "the API key is not one of this server's" if secret else "an API key is missing"
            await _unauthorised(what).response()(scope, receive, send)
            return
        visit_of(scope).key = key.name
        scope["dunwu.key"] = key
        await self.app(scope, receive, send)

    def _is_open(self, scope: Mapping[str, Any]) -> bool:
        path: str = scope["path"]
        return any(path == one or (one.endswith("/*") and path.startswith(one[:-1])) for one in self.open_paths)


def _unauthorised(what: str) -> ApiError:
    return ApiError(
        401,
        f"{what}; send it as the header: Authorization: Bearer KEY (whoever runs the server makes one)",
        code="invalid_api_key",
        headers={"www-authenticate": 'Bearer realm="dunwu"'},
    )
