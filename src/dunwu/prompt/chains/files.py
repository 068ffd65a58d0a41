"""Chains as YAML: strict, and unable to run code of their own unless whoever loads them says so.

    name: company
    inputs: {product: text}
    steps:
      - ask: "What is a good name for a company that makes {{ product }}? Answer with the name alone."
        gives: company
        options: {max_tokens: 20, temperature: 0.7}
      - ask: "Write a slogan for {{ company }}, which makes {{ product }}."
        gives: slogan

Steps are fill, ask, parse, call, split, map, reduce, parallel, branch and chain; each may have a `name` and `retries`. A `call` names
a function of `functions.py`, one that the loading program gives, or, where that is allowed, FILE.py:NAME beside the chain's file.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ruamel.yaml.error import YAMLError

from dunwu.core.errors import DunwuError, PromptError
from dunwu.core.files import write_text
from dunwu.core.nearest import shown
from dunwu.core.templates import nearest_name
from dunwu.core.yaml import format_yaml, parse_yaml
from dunwu.prompt.chains.ask import Ask, options_from
from dunwu.prompt.chains.call import Call
from dunwu.prompt.chains.fill import Fill
from dunwu.prompt.chains.functions import FUNCTIONS
from dunwu.prompt.chains.kinds import kind_of, record
from dunwu.prompt.chains.over import Branch, Map, Reduce, Split
from dunwu.prompt.chains.parse import Json, Lines, Regex, Schema
from dunwu.prompt.chains.step import Chain, Inputs, Parallel, Step, full_spec

Function = Callable[..., Any]
_EVERY = ("name", "retries")
_KEYS: Mapping[str, tuple[str, ...]] = {
    "fill": ("gives",),
    "ask": ("gives", "reads", "system", "model", "options"),
    "parse": ("of", "gives"),
    "call": ("with", "gives"),
    "split": ("by", "size", "overlap", "gives"),
    "map": ("over", "item", "gives"),
    "reduce": ("over", "item", "at_a_time", "most_tokens", "gives"),
    "parallel": (),
    "branch": ("when", "otherwise"),
    "chain": ("inputs", "answer"),
}
_FILE = ("name", "about", "inputs", "steps", "answer")
_RETRY = ("attempts", "first_wait_s", "most_wait_s")
_PARSERS = ("json", "lines", "regex", "fields")
MOST_DEPTH = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loading:
    """What a file may name."""

    functions: Mapping[str, Function]
    folder: Path
    allow_code: bool
    loaded: dict[str, Any] = field(default_factory=dict[str, Any])


def load_chain(file: Path, *, functions: Mapping[str, Function] | None = None, allow_code: bool = False) -> Chain:
    """The chain that a YAML file holds. `functions`: what `call` may name beside those that come with dunwu. `allow_code`: it may
    name FILE.py:NAME, which is run as it is loaded. Raises PromptError with the place of what is wrong."""
    try:
        data = parse_yaml(file.read_text("utf-8-sig"))
    except OSError as error:
        raise PromptError(f"cannot read the chain {file}: {error.strerror}; name a YAML file") from error
    except (UnicodeDecodeError, YAMLError) as error:
        raise PromptError(f"{file} is not valid YAML: {' '.join(str(error).split())[:300]}; mend it") from error
    try:
        return chain_from(data, functions=functions, allow_code=allow_code, folder=file.parent, name=file.stem)
    except DunwuError as error:
        raise PromptError(f"{file}: {error}") from error


def chain_from(
    data: Any,
    *,
    functions: Mapping[str, Function] | None = None,
    allow_code: bool = False,
    folder: Path | None = None,
    name: str = "chain",
) -> Chain:
    """The chain that such data describe. Raises PromptError."""
    loading = _Loading(functions={**FUNCTIONS, **(functions or {})}, folder=folder or Path(), allow_code=allow_code)
    found = _keys(data, _FILE, "the chain")
    if "steps" not in found:
        raise PromptError("the chain has no steps; write `steps:` and below it one step an item")
    begin = [_inputs(found["inputs"])] if "inputs" in found else []
    steps = _steps(found["steps"], "steps", loading, 0)
    return Chain(
        *begin, *steps, name=_text(found.get("name", name), "name"), answer=_text(found.get("answer", ""), "answer")
    )


def save_chain(chain: Step, file: Path) -> None:
    """Write a chain as YAML. Raises PromptError for what YAML cannot hold: functions and partners of its own."""
    write_text(file, format_yaml(chain_data(chain)))


def chain_data(chain: Step) -> dict[str, Any]:
    """A chain as YAML holds it."""
    if not isinstance(chain, Chain) or chain.retry.attempts > 1:
        return {"steps": [full_spec(chain)]}
    spec = chain.spec()
    begin = {"name": chain.label} if chain.label else {}
    inputs = {"inputs": spec["inputs"]} if "inputs" in spec else {}
    answer = {"answer": spec["answer"]} if "answer" in spec else {}
    return begin | inputs | {"steps": spec["chain"]} | answer


def _inputs(given: Any) -> Inputs:
    if isinstance(given, list):
        return Inputs(*(_text(one, "inputs") for one in cast("list[Any]", given)))
    if not isinstance(given, dict) or not given:
        raise PromptError(f"inputs is {shown(given)}; write [name, …], or {{name: kind, …}}")
    kinds = cast("dict[str, Any]", given)
    return Inputs(**{str(name): kind_of(str(kind), f"inputs.{name}") for name, kind in kinds.items()})


def _steps(given: Any, where: str, loading: _Loading, depth: int) -> list[Step]:
    if depth > MOST_DEPTH:
        raise PromptError(f"{where}: steps stand more than {MOST_DEPTH} deep in each other; make the chain flatter")
    if isinstance(given, dict):
        return [_step(given, where, loading, depth)]
    if not isinstance(given, list) or not given:
        raise PromptError(f"{where} is {shown(given)}; write a step, or a list of steps")
    return [_step(one, f"{where}.{number}", loading, depth) for number, one in enumerate(cast("list[Any]", given))]


def _one(given: Any, where: str, loading: _Loading, depth: int) -> Step:
    steps = _steps(given, where, loading, depth + 1)
    return steps[0] if len(steps) == 1 else Chain(*steps)


def _step(given: Any, where: str, loading: _Loading, depth: int) -> Step:
    if not isinstance(given, dict):
        raise PromptError(f"{where} is {shown(given)}; a step is a group of keys, such as `ask: …`")
    names = [str(key) for key in cast("dict[Any, Any]", given)]
    kinds = [name for name in names if name in _KEYS]
    if not kinds:
        near = nearest_name(names[0], _KEYS) if names else f"there are: {', '.join(_KEYS)}"
        raise PromptError(f"{where} says no kind of step; it has {', '.join(names) or 'nothing'}; {near}")
    kind = kinds[0]
    keys = _keys(given, (kind, *_KEYS[kind], *_EVERY), where)
    try:
        step = _MADE[kind](keys, where, loading, depth)
    except PromptError as error:
        raise error if str(error).startswith("steps") else PromptError(f"{where}: {error}") from error
    if "retries" in keys:
        step = step.retrying(**_retries(keys["retries"], f"{where}.retries"))
    return step.named(_text(keys["name"], f"{where}.name")) if "name" in keys else step


def _retries(given: Any, where: str) -> dict[str, Any]:
    keys = (
        {"attempts": given} if isinstance(given, int) and not isinstance(given, bool) else _keys(given, _RETRY, where)
    )
    for name, value in keys.items():
        if isinstance(value, bool) or not isinstance(value, int if name == "attempts" else int | float):
            raise PromptError(f"{where}.{name} is {shown(value)}; give a number")
    return keys


def _fill(keys: Mapping[str, Any], where: str, loading: _Loading, depth: int) -> Step:
    return Fill(_text(keys["fill"], f"{where}.fill"), **_texts(keys, where, "gives"))


def _ask(keys: Mapping[str, Any], where: str, loading: _Loading, depth: int) -> Step:
    template = None if keys["ask"] is None else _text(keys["ask"], f"{where}.ask")
    options = options_from(_keys(keys.get("options", {}), None, f"{where}.options"), f"{where}.options")
    return Ask(template, **_texts(keys, where, "gives", "reads", "system", "model"), **options)


def _parse(keys: Mapping[str, Any], where: str, loading: _Loading, depth: int) -> Step:
    how, names = keys["parse"], _texts(keys, where, "of", "gives")
    if isinstance(how, str):
        how = {how: None}
    found = _keys(how, (*_PARSERS, "every"), f"{where}.parse")
    kind = next((name for name in _PARSERS if name in found), "")
    if kind == "json":
        return Json(**names)
    if kind == "lines":
        if found["lines"] not in (None, "with marks"):
            raise PromptError(f"lines is {shown(found['lines'])}; write lines alone, or lines: with marks")
        return Lines(marks=found["lines"] is not None, **names)
    if kind == "regex":
        return Regex(_text(found["regex"], f"{where}.parse.regex"), every=found.get("every") is True, **names)
    if kind == "fields":
        fields = _keys(found["fields"], None, f"{where}.parse.fields")
        return Schema(record("Answer", {name: _text(one, name) for name, one in fields.items()}), **names)
    raise PromptError(
        f"parse is {shown(keys['parse'])}; write json, lines, regex: EXPRESSION or fields: {{name: kind}}"
    )


def _call(keys: Mapping[str, Any], where: str, loading: _Loading, depth: int) -> Step:
    called = _text(keys["call"], f"{where}.call")
    reads: dict[str, str] = {}
    fixed: dict[str, Any] = {}
    for parameter, value in _keys(keys.get("with", {}), None, f"{where}.with").items():
        if isinstance(value, str):
            reads[parameter] = value
        else:
            fixed[parameter] = (
                _keys(value, ("value",), f"{where}.with.{parameter}")["value"] if isinstance(value, dict) else value
            )
    gives = keys.get("gives", "")
    gives = (
        [_text(one, f"{where}.gives") for one in cast("list[Any]", gives)]
        if isinstance(gives, list)
        else _text(gives, f"{where}.gives")
    )
    return Call(_function(called, loading), gives=gives, reads=reads, fixed=fixed, saved_as=called)


def _function(called: str, loading: _Loading) -> Function:
    if called in loading.functions:
        return loading.functions[called]
    file, colon, name = called.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise PromptError(f"there is no function {called!r}; {nearest_name(called, loading.functions)}")
    if not loading.allow_code:
        raise PromptError(
            f"it calls {called!r}, which would run the code of that file; look at it, and allow it where you trust it: --allow-code"
        )
    path = (loading.folder / file).resolve()
    if str(path) not in loading.loaded:
        spec = importlib.util.spec_from_file_location(f"dunwu_chain_{path.stem}", path)
        if spec is None or spec.loader is None or not path.is_file():
            raise PromptError(f"there is no file {path}; paths start at the folder of the chain's file")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise PromptError(f"{path} cannot be loaded: {type(error).__name__}: {error}; mend it") from error
        loading.loaded[str(path)] = module
    module = loading.loaded[str(path)]
    found = getattr(module, name, None)
    if not callable(found):
        known = [one for one in vars(module) if callable(getattr(module, one)) and not one.startswith("_")]
        raise PromptError(f"{path} has no function {name!r}; {nearest_name(name, known)}")
    return found


def _split(keys: Mapping[str, Any], where: str, loading: _Loading, depth: int) -> Step:
    return Split(
        _text(keys["split"], f"{where}.split"),
        **_texts(keys, where, "by", "gives"),
        **_numbers(keys, where, "size", "overlap"),
    )


def _map(keys: Mapping[str, Any], where: str, loading: _Loading, depth: int) -> Step:
    inner = _one(keys["map"], f"{where}.map", loading, depth)
    return Map(inner, **_texts(keys, where, "over", "item", "gives", need="over"))


def _reduce(keys: Mapping[str, Any], where: str, loading: _Loading, depth: int) -> Step:
    inner = _one(keys["reduce"], f"{where}.reduce", loading, depth)
    texts = _texts(keys, where, "over", "item", "gives", need="over")
    return Reduce(inner, **texts, **_numbers(keys, where, "at_a_time", "most_tokens"))


def _parallel(keys: Mapping[str, Any], where: str, loading: _Loading, depth: int) -> Step:
    beside = keys["parallel"]
    if not isinstance(beside, list):
        raise PromptError(f"parallel is {shown(beside)}; write a list, each item a step or a list of steps")
    return Parallel(
        *(_one(one, f"{where}.parallel.{at}", loading, depth) for at, one in enumerate(cast("list[Any]", beside)))
    )


def _branch(keys: Mapping[str, Any], where: str, loading: _Loading, depth: int) -> Step:
    when = _keys(keys.get("when", {}), None, f"{where}.when")
    otherwise = keys.get("otherwise")
    return Branch(
        _text(keys["branch"], f"{where}.branch"),
        {key: _one(one, f"{where}.when.{key}", loading, depth) for key, one in when.items()},
        otherwise=None if otherwise is None else _one(otherwise, f"{where}.otherwise", loading, depth),
    )


def _chain(keys: Mapping[str, Any], where: str, loading: _Loading, depth: int) -> Step:
    begin = [_inputs(keys["inputs"])] if "inputs" in keys else []
    steps = _steps(keys["chain"], f"{where}.chain", loading, depth + 1)
    return Chain(*begin, *steps, answer=_text(keys.get("answer", ""), f"{where}.answer"))


_MADE: Mapping[str, Callable[[Mapping[str, Any], str, _Loading, int], Step]] = {
    "fill": _fill,
    "ask": _ask,
    "parse": _parse,
    "call": _call,
    "split": _split,
    "map": _map,
    "reduce": _reduce,
    "parallel": _parallel,
    "branch": _branch,
    "chain": _chain,
}


def _keys(given: Any, known: Sequence[str] | None, where: str) -> dict[str, Any]:
    """A group of keys, all of them known. Raises PromptError."""
    if not isinstance(given, dict):
        raise PromptError(f"{where} is {shown(given)}; write a group of keys")
    found = {str(key): value for key, value in cast("dict[Any, Any]", given).items()}
    for name in found if known is not None else ():
        if name not in (known or ()):
            raise PromptError(f"{where} has the unknown key {name!r}; {nearest_name(name, known or ())}")
    return found


def _text(given: Any, where: str) -> str:
    if isinstance(given, str):
        return given
    raise PromptError(f"{where} is {shown(given)}; write text (put it in quotes)")


def _texts(keys: Mapping[str, Any], where: str, *names: str, need: str = "") -> dict[str, Any]:
    if need and need not in keys:
        raise PromptError(f"{where} has no `{need}`; add it")
    return {name: _text(keys[name], f"{where}.{name}") for name in names if name in keys}


def _numbers(keys: Mapping[str, Any], where: str, *names: str) -> dict[str, Any]:
    for name in names:
        if name in keys and (isinstance(keys[name], bool) or not isinstance(keys[name], int)):
            raise PromptError(f"{where}.{name} is {shown(keys[name])}; write a whole number")
    return {name: keys[name] for name in names if name in keys}
