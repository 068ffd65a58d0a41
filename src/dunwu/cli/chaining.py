"""`dunwu chain`."""

import contextlib
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.table import Table
from ruamel.yaml.error import YAMLError

from dunwu.chat.options import ChatOptions
from dunwu.chat.protocol import Chat
from dunwu.cli import remote, talking
from dunwu.core.errors import DataError, PromptError, RecipeError
from dunwu.core.screen import harmless
from dunwu.core.templates import nearest_name
from dunwu.core.yaml import parse_yaml
from dunwu.prompt.chains import Chain, Result, Step, Text, Trace
from dunwu.prompt.chains.files import load_chain
from dunwu.prompt.chains.kinds import fits, name_of
from dunwu.prompt.chains.page import write_page
from dunwu.prompt.chains.trace import jsonable, read_trace
from dunwu.prompt.chains.trace import rows as table_of


def run(
    file: Path,
    values: Sequence[str],
    *,
    model: str | None,
    url: str | None,
    key_env: str,
    rows: Path | None,
    temperature: float,
    seed: int | None,
    max_tokens: int,
    trace: Path | None,
    allow_code: bool,
    as_json: bool,
) -> None:
    """Run it, for one item or many."""
    _require_trace_name(trace)
    chain = load_chain(file, allow_code=allow_code)
    given = _given(values, chain)
    items = [given] if rows is None else [{**given, **row} for row in _rows(rows)]
    if rows is not None and trace is not None:
        raise RecipeError("--trace is for one item, and --rows gives many; leave one of them out")
    options = ChatOptions(max_tokens=max_tokens, temperature=temperature, seed=seed)
    with _partner(model, url, key_env) as chat:
        if rows is not None:
            _print_rows(chain.batch(items, chat, options=options))
            return
        result = _one(chain, given, chat, options, quiet=as_json)
    if trace is not None:
        _write(result.trace, trace)
    if result.error is not None:
        raise result.error
    if as_json:
        print(json.dumps({"answer": jsonable(result.answer), "values": jsonable(result.values)}, ensure_ascii=False))


def show_trace(file: Path, *, page: Path | None) -> None:
    """As a table, or as a page."""
    trace = read_trace(file)
    if page is not None:
        write_page(trace, page)
        return
    table = Table("step", "kind", "seconds", "tokens", "retries", "gave")
    for row in table_of(trace):
        table.add_row(*(harmless(cell).replace("[", r"\[")[:300] for cell in row))
    console = Console(highlight=False)
    console.print(table)
    tokens = f"{trace.prompt_tokens} tokens read, {trace.completion_tokens} written"
    console.print(f"{trace.seconds:.3f} s, {tokens}, {trace.retries} retries", markup=False)
    if trace.error:
        console.print(harmless(trace.error), markup=False)


def show(file: Path, *, allow_code: bool) -> None:
    """The steps, each with what it takes and gives."""
    chain = load_chain(file, allow_code=allow_code)
    print(f"{harmless(chain.name)}: takes {_named(chain.takes, chain.optional) or 'nothing'}")
    for depth, step in _steps(chain, 0):
        print(
            "  " * depth
            + f"{harmless(step.name)}: {_named(step.takes, step.optional) or 'nothing'} → {_named(step.gives)}"
        )
    print(f"answer: {chain.answer}")


def _one(chain: Chain, given: Mapping[str, Any], chat: Chat | None, options: ChatOptions, *, quiet: bool) -> Result:
    speaks, said, result = chain.speaks(""), False, None
    for event in chain.events(given, chat, options=options):
        if isinstance(event, Text) and event.path == speaks and not quiet:
            said = True
            print(harmless(event.text), end="", flush=True)
        if isinstance(event, Result):
            result = event
    assert result is not None, "events end with a Result"
    if result.error is None and not quiet:
        print("" if said else harmless(_as_text(result.answer)))
    elif said:
        print()
    return result


def _as_text(answer: Any) -> str:
    return answer if isinstance(answer, str) else json.dumps(jsonable(answer), ensure_ascii=False, indent=1)


def _print_rows(results: Sequence[Result]) -> None:
    for one in results:
        ended = {"answer": jsonable(one.answer)} if one.error is None else {"error": str(one.error)}
        print(json.dumps(ended, ensure_ascii=False))
    if failed := sum(one.error is not None for one in results):
        raise PromptError(f"{failed} of {len(results)} items failed; their lines say why")


def _given(values: Sequence[str], chain: Chain) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in values:
        name, equals, value = word.partition("=")
        if not equals:
            raise RecipeError(f"{word!r} gives no value; write NAME=TEXT, or NAME=@FILE")
        if name not in chain.takes:
            raise PromptError(f"{chain.name} takes no {name!r}; {nearest_name(name, chain.takes)}")
        text = _read(Path(value[1:])) if value.startswith("@") else value
        found[name] = _as_kind(name, text, chain.takes[name])
    return found


def _read(file: Path) -> str:
    try:
        return file.expanduser().read_text("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}; name a text file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8; give a text file") from error


def _as_kind(name: str, text: str, kind: Any) -> Any:
    """Text where the chain takes text, else what YAML makes of it."""
    if kind is Any or fits(str, kind):
        return text
    try:
        return parse_yaml(text)
    except YAMLError as error:
        raise RecipeError(f"{name}={text[:80]!r} is wanted as {name_of(kind)}; write it as YAML or JSON") from error


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_read(file).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{file}, line {number} is no JSON: {error}; write one object a line") from error
        if not isinstance(row, dict):
            raise DataError(f"{file}, line {number} is {line[:60]!r}; write one object a line")
        yield cast("dict[str, Any]", row)


@contextlib.contextmanager
def _partner(model: str | None, url: str | None, key_env: str) -> Generator[Chat | None]:
    if url is not None and model is None:
        raise RecipeError("--url needs --model, the name of a model there")
    if model is None:
        yield None
    elif url is None:
        yield talking.load(model)
    else:
        with remote.endpoint(model, url, key_env) as partner:
            yield partner


def _require_trace_name(trace: Path | None) -> None:
    if trace is not None and trace.suffix.lower() not in (".json", ".html"):
        raise RecipeError(f"--trace {trace}: name a .json, or an .html for a page")


def _write(trace: Trace, file: Path) -> None:
    if file.suffix.lower() == ".html":
        write_page(trace, file)
    else:
        trace.write(file)


def _named(kinds: Mapping[str, Any], optional: frozenset[str] = frozenset()) -> str:
    return ", ".join(f"{name}{'?' if name in optional else ''} ({name_of(kind)})" for name, kind in kinds.items())


def _steps(step: Step, depth: int) -> Iterator[tuple[int, Step]]:
    for inner in step.inside:
        yield depth + 1, inner
        yield from _steps(inner, depth + 1)
