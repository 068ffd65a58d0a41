"""Tests of a program that share nothing with it: each runs behind walls of its own, and only data pass between them.

The program answers calls of its functions; what it gives back is rebuilt here as plain data, or stands for an object that only it
has. It never sees the tests, and cannot reach what judges it: neither the check nor Python's own functions, exit codes or output.
An object that claims to equal everything equals nothing but another of its kind.
"""

import json
from collections.abc import Sequence

from dunwu.evaluate.sandbox import Limits, Walls, run_together

# What both sides speak. JSON has no tuples, sets and the like: these are objects with one key, which says what they are.
_SPEECH = """\
import json, os, sys
sys.set_int_max_str_digits(0) if hasattr(sys, "set_int_max_str_digits") else None
def pack(value, other):
    if value is None or type(value) in (bool, int, float, str): return value
    if type(value) is list: return [pack(one, other) for one in value]
    if type(value) in (tuple, set, frozenset): return {type(value).__name__: [pack(one, other) for one in value]}
    if type(value) is dict: return {"dict": [[pack(key, other), pack(one, other)] for key, one in value.items()]}
    if type(value) is bytes: return {"bytes": value.hex()}
    if type(value) is complex: return {"complex": [value.real, value.imag]}
    if type(value) is range: return {"range": [value.start, value.stop, value.step]}
    return other(value)
def unpack(value, other):
    if isinstance(value, list): return [unpack(one, other) for one in value]
    if not isinstance(value, dict): return value
    (kind, held), = value.items()
    if kind == "dict": return {unpack(key, other): unpack(one, other) for key, one in held}
    if kind in ("tuple", "set", "frozenset"): return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](unpack(held, other))
    if kind == "bytes": return bytes.fromhex(held)
    if kind == "complex": return complex(*held)
    if kind == "range": return range(*held)
    return other(kind, held)
"""

_ANSWERING = """\
import operator, types
asked, said = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
nothing = os.open("/dev/null", os.O_RDWR); os.dup2(nothing, 0); os.dup2(2, 1)
held = []
def other(value):
    if isinstance(value, types.ModuleType): return {"module": value.__name__}
    if isinstance(value, (int, float, str)) : return {"of": [type(value).__name__, pack(([c for c in type(value).__mro__ if c in (bool, int, float, str)][0])(value), other)]}
    if hasattr(value, "__next__"):
        items = []
        for item in value:
            items.append(item)
            if len(items) > 100000: raise ValueError("it gives more than 100000 items")
        return {"iterator": [pack(one, other) for one in items]}
    if isinstance(value, dict): return pack(dict(value), other)
    if isinstance(value, (list, tuple, set)) : return pack([c for c in type(value).__mro__ if c in (list, tuple, set)][0](value), other)
    held.append(value)
    return {"object": len(held) - 1}
def given(kind, value): return held[value]
def say(what):
    said.write(json.dumps(what).encode() + b"\\n"); said.flush()
scope = {"__name__": "__main__"}
try:
    exec(compile(CODE, "answer.py", "exec"), scope)
except SystemExit:
    pass
names = {}
for name, value in list(scope.items()):
    if not name.startswith("__"):
        try: names[name] = pack(value, other)
        except Exception: pass
say(names)
for line in asked:
    what, args, kwargs = unpack(json.loads(line), given)
    try:
        result = {"call": lambda f, *a, **k: f(*a, **k), "get": getattr, "str": str, "repr": repr, "len": len, "iter": lambda x: iter(x), "bool": bool}.get(what) or getattr(operator, what)
        value = pack(result(*args, **kwargs), other)
        say({"value": value, "after": [pack(one, lambda _: None) if isinstance(one, (list, dict, set)) else None for one in args[1:]]})
    except BaseException as error:
        kinds = [c.__name__ for c in type(error).__mro__ if c.__module__ == "builtins"]
        say({"error": kinds[0], "text": str(error)[:1000]})
"""

_JUDGING = """\
import builtins, importlib
answers, asks = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
tells = os.dup(2)
nothing = os.open("/dev/null", os.O_RDWR)
for one in (0, 1, 2): os.dup2(nothing, one)
class Gone(BaseException): pass
def line():
    found = answers.readline()
    if not found.endswith(b"\\n"): raise Gone
    return json.loads(found)
def given(kind, value):
    if kind == "object": return Remote(value)
    if kind == "iterator": return iter(unpack(value, given))
    if kind == "of": return unpack(value[1], given)
    if kind == "module" and value.partition(".")[0] in {*sys.stdlib_module_names, "numpy"}: return importlib.import_module(value)
    raise ValueError(kind)
def out(value):
    if isinstance(value, Remote): return {"object": value.__dict__["number"]}
    raise TypeError(f"{type(value).__name__} cannot be given to the program")
def ask(what, *args, **kwargs):
    asks.write(json.dumps([what, [pack(one, out) for one in args], pack(kwargs, out)]).encode() + b"\\n"); asks.flush()
    reply = line()
    if "error" in reply:
        kind = getattr(builtins, str(reply["error"]), None)
        raise (kind if isinstance(kind, type) and issubclass(kind, Exception) else RuntimeError)(reply["text"])
    for one, after in zip(args[1:], reply["after"]):
        if after is not None and isinstance(one, (list, dict, set)):
            changed = unpack(after, given)
            if type(changed) is type(one):
                if isinstance(one, list): one[:] = changed
                else: one.clear(); one.update(changed)
    return unpack(reply["value"], given)
class Remote:
    def __init__(self, number): self.__dict__["number"] = number
    def __call__(self, *args, **kwargs): return ask("call", self, *args, **kwargs)
    def __getattr__(self, name):
        if name.startswith("__"): raise AttributeError(name)
        return ask("get", self, name)
    def __setattr__(self, name, value): ask("call", ask("get", self, "__setattr__"), name, value)
    def __eq__(self, other): return isinstance(other, Remote) and ask("eq", self, other) is True
    def __ne__(self, other): return not self == other
    def __hash__(self): return hash(("remote", self.__dict__["number"]))
    def __bool__(self): return ask("bool", self) is True
    def __len__(self): return int(ask("len", self))
    def __iter__(self): return iter(ask("iter", self))
    def __str__(self): return str(ask("str", self))
    def __repr__(self): return str(ask("repr", self))
    def __contains__(self, item): return ask("contains", self, item) is True
    def __getitem__(self, key): return ask("getitem", self, key)
    def __setitem__(self, key, value): ask("setitem", self, key, value)
def operation(name):
    return lambda self, other: ask(name, self, other)
for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "lt", "le", "gt", "ge", "and_", "or_", "xor"):
    setattr(Remote, f"__{name.rstrip('_')}__", operation(name))
try:
    names = line()
except Gone:
    os._exit(0)
scope = {"__name__": "__main__"}
for name, value in names.items():
    if hasattr(builtins, name) or name.startswith("__"): continue
    try: scope[name] = unpack(value, given)
    except Exception: pass
for number, test in enumerate(TESTS):
    try:
        exec(compile(test, "test.py", "exec"), dict(scope))
    except Gone:
        break
    except BaseException:
        continue
    os.write(tells, f"{number}\\n".encode())
os._exit(0)
"""


def passed_tests(
    code: str, tests: Sequence[str], limits: Limits, *, allow_weak: bool = False, behind: Walls | None = None
) -> set[int]:
    """Which of the tests, Python texts, the program passes, by their place. Each is told as it passes, so that a later one that
    hangs takes nothing from it."""
    judge = f"{_SPEECH}TESTS = {json.dumps(list(tests))}\n{_JUDGING}"
    answer = f"{_SPEECH}CODE = {json.dumps(code)}\n{_ANSWERING}"
    told = run_together(judge, answer, limits, allow_weak=allow_weak, behind=behind).errors
    return {int(line) for line in told.splitlines() if line.isdecimal() and int(line) < len(tests)}
