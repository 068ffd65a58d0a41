"""The library of `step.c`: its records and functions as Python calls them.

Shapes: `R` rows, `I` inputs, `O` outputs of a matrix.
"""

import ctypes
import functools
import logging
import os
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dunwu.core.errors import DunwuError
from dunwu.model.native.compiling import library

SWITCH = "DUNWU_KERNELS"
"""An environment variable: `off` never uses the kernels."""
ROWS_TOGETHER = 16
"""At most so many rows of a text read its keys together."""
ROWS_SIEVED = 16
"""So many rows look for their likeliest outputs through a sieve at a time."""
FLOAT32, INT8, INT4 = 0, 1, 2
RMS_NORM, LAYER_NORM = 1, 2
ATTENTION, MLP = 0, 1
STILL, HALVES, PAIRS = 0, 1, 2
ACTIVATIONS: Mapping[str, int] = {"silu": 0, "gelu": 1, "gelu_tanh": 2}

_log = logging.getLogger(__name__)
_i64, _pointer, _float = ctypes.c_int64, ctypes.c_void_p, ctypes.c_float


class Matrix(ctypes.Structure):
    """`Matrix` of products.h."""

    _fields_ = (
        ("weights", _pointer),
        ("scales", _pointer),
        ("bias", _pointer),
        ("outputs", _i64),
        ("inputs", _i64),
        ("group", _i64),
        ("kind", _i64),
    )


class Sieve(ctypes.Structure):
    """`Sieve` of head.h."""

    _fields_ = (("bytes", Matrix), ("slack", _pointer), ("size", _pointer), ("rows", _i64), ("computed", _i64))


class Norm(ctypes.Structure):
    """`Norm` of step.c."""

    _fields_ = (("weight", _pointer), ("bias", _pointer), ("kind", _i64), ("offset", _float), ("eps", _float))


class Part(ctypes.Structure):
    """`Part` of step.c."""

    _fields_ = (
        ("kind", _i64),
        ("before", Norm),
        ("after", Norm),
        ("first", Matrix * 3),
        ("last", Matrix),
        ("q_norm", Norm),
        ("k_norm", Norm),
        ("sinks", _pointer),
        ("keys", _pointer),
        ("values", _pointer),
        ("key_scales", _pointer),
        ("value_scales", _pointer),
        ("norm_all", _i64),
        ("turns", _i64),
        ("table", _i64),
        ("window", _i64),
        ("scale", _float),
        ("cap", _float),
        ("activation", _i64),
    )


class Step(ctypes.Structure):
    """`Step` of step.c."""

    _fields_ = (
        ("rows", _i64),
        ("width", _i64),
        ("heads", _i64),
        ("kv_heads", _i64),
        ("head_dim", _i64),
        ("turned", _i64),
        ("slots", _i64),
        ("cache_bytes", _i64),
        ("chunked", _i64),
        ("x", _pointer),
        ("cos", _pointer * 2),
        ("sin", _pointer * 2),
        ("place", _pointer),
        ("slot", _pointer),
        ("seen", _pointer),
        ("first_run", _pointer),
        ("runs", _pointer),
        ("together", _pointer),
        ("together_count", _i64),
        ("scratch", _pointer),
        ("shares", _pointer),
        ("parts", _pointer),
        ("part_count", _i64),
        ("threads", _i64),
        ("wide", _i64),
        ("ids", _pointer),
        ("embedding", ctypes.POINTER(Matrix)),
        ("embedding_scale", _float),
        ("norm", ctypes.POINTER(Norm)),
    )


class Choosing(ctypes.Structure):
    """`Choosing` of step.c."""

    _fields_ = (
        ("head", ctypes.POINTER(Matrix)),
        ("sieve", ctypes.POINTER(Sieve)),
        ("most", _pointer),
        ("barred", _pointer),
        ("stops", _pointer),
        ("stop_count", _i64),
    )

    @classmethod
    def of(
        cls, head: Matrix, barred: Tensor | None, sieve: tuple[Sieve, Tensor] | None, stops: "array[int]"
    ) -> "Choosing":
        """As `Library.likeliest` takes them; `barred`, the sieve's room and `stops` must outlive it."""
        choosing = cls(head=ctypes.pointer(head), stops=stops.buffer_info()[0], stop_count=len(stops))
        choosing.barred = 0 if barred is None else barred.data_ptr()
        if sieve is not None:
            choosing.sieve, choosing.most = ctypes.pointer(sieve[0]), sieve[1].data_ptr()
        return choosing


class Chain:
    """Parts that follow one another."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = (Part * len(parts))(*parts)
        self._shares = (_i64 * 0)()

    def enter(self, step: Step) -> None:
        """Tell a step of the parts, and where its threads count what they took of the work of each."""
        if len(self._shares) < (wanted := 3 * len(self.parts) * step.threads):
            self._shares = (_i64 * wanted)()
        step.parts, step.part_count = ctypes.addressof(self.parts), len(self.parts)
        step.shares = ctypes.addressof(self._shares)


class Library:
    """The loaded library. Its functions let other threads of Python run meanwhile."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._step = self._library.dunwu_step
        self._product = self._library.dunwu_product
        self._scratch = self._library.dunwu_scratch_floats
        self._step.argtypes, self._step.restype = [ctypes.POINTER(Step)], None
        self._product.argtypes = [ctypes.POINTER(Matrix), _pointer, _i64, _i64, _pointer, _i64]
        self._product.restype = None
        self._likeliest = self._library.dunwu_likeliest
        self._likeliest.argtypes = [
            *(ctypes.POINTER(Matrix), ctypes.POINTER(Sieve), _pointer),
            *(_pointer, _i64, _i64, _pointer, _pointer, _i64),
        ]
        self._likeliest.restype = None
        self._write = self._library.dunwu_write
        self._write.argtypes = [ctypes.POINTER(Step), ctypes.POINTER(Choosing), _i64, _pointer]
        self._write.restype = _i64
        self._make_sieve = self._library.dunwu_make_sieve
        self._make_sieve.argtypes, self._make_sieve.restype = (
            [ctypes.POINTER(Matrix), ctypes.POINTER(Sieve), _i64],
            None,
        )
        self._can_sieve = self._library.dunwu_can_sieve
        self._can_sieve.argtypes, self._can_sieve.restype = [_i64], _i64
        self._normalise = self._library.dunwu_normalise
        self._normalise.argtypes, self._normalise.restype = [ctypes.POINTER(Norm), _pointer, _i64, _i64], None
        self._scratch.argtypes, self._scratch.restype = [_i64] * 4, _i64
        share_threads(self._library)

    def step(self, step: Step, chain: "Chain") -> None:
        """Take `x` through the parts, in place."""
        chain.enter(step)
        self._step(step)

    def normalise(self, norm: Norm, x_RI: Tensor) -> None:
        """Normalise contiguous rows of float32 in place."""
        self._normalise(norm, x_RI.data_ptr(), *x_RI.shape)

    def scratch_floats(self, rows: int, width: int, wide: int, threads: int) -> int:
        """How many floats of scratch a step needs."""
        return self._scratch(rows, width, wide, threads)

    def product(self, matrix: Matrix, x: Tensor) -> Tensor:
        """`x` [..., I] times the matrix, [..., O]; float32."""
        x = x.contiguous()
        out = torch.empty(*x.shape[:-1], matrix.outputs)
        rows = x.numel() // matrix.inputs
        self._product(matrix, x.data_ptr(), matrix.inputs, rows, out.data_ptr(), torch.get_num_threads())
        return out

    def write(self, step: Step, chain: "Chain", choosing: Choosing, count: int) -> list[list[int]]:
        """Up to `count` passes of `step`, each with the tokens that the one before chose, as `dunwu_write` says: what each chose,
        and `x` is what the last had."""
        chain.enter(step)
        rows = step.rows
        written = (_i64 * (count * rows))()
        done = self._write(step, choosing, count, written)
        return [written[start : start + rows] for start in range(0, done * rows, rows)]

    def likeliest(
        self, matrix: Matrix, x_RI: Tensor, barred: Tensor | None, sieve: tuple[Sieve, Tensor] | None = None
    ) -> list[int]:
        """Which output of each row is the greatest, the first of equals, and none of those that are 1 in `barred`, uint8 `[O]`; -1
        where it is not finite. `sieve`: made of the matrix, with room for it, float32 `[ROWS_SIEVED, O]`; what is found is the
        same."""
        rows = len(x_RI)
        found = (_i64 * rows)()
        x_RI, own = x_RI.contiguous(), 0 if barred is None else barred.data_ptr()
        mesh, room = (None, 0) if sieve is None else (sieve[0], sieve[1].data_ptr())
        self._likeliest(matrix, mesh, room, x_RI.data_ptr(), matrix.inputs, rows, own, found, torch.get_num_threads())
        return found[:]

    def can_sieve(self, inputs: int) -> bool:
        """Whether a sieve is made for matrices of so many inputs on this processor."""
        return bool(self._can_sieve(inputs))

    def make_sieve(self, matrix: Matrix, sieve: Sieve) -> None:
        """Fill the sieve's room from a matrix of float32 without bias."""
        self._make_sieve(matrix, sieve, torch.get_num_threads())


@functools.cache
def _loaded() -> Library | None:
    try:
        return Library(library("step.c"))
    except (DunwuError, OSError) as error:
        _log.warning("Decoding goes through torch alone, which is slower: %s", error)
        return None


def native() -> Library | None:
    """The kernels, compiled at the first call; None, with the reason logged once, where they can't be had or are off."""
    return None if switched_off() else _loaded()


def switched_off() -> bool:
    """Whether the user wants no kernels."""
    return os.environ.get(SWITCH, "").lower() in ("off", "0", "no")


def share_threads(loaded: ctypes.CDLL) -> None:
    """Let a library's kernels run on torch's own threads, where torch brings GNU's OpenMP."""
    team = _team_of_torch()
    if team is not None:
        loaded.dunwu_use_team.argtypes = [_pointer] * 3
        loaded.dunwu_use_team(*(ctypes.cast(function, _pointer) for function in team))


def _team_of_torch() -> tuple[Any, Any, Any] | None:
    """The functions of GNU's OpenMP in the copy that torch has loaded; None where torch has another."""
    try:
        mapped = Path("/proc/self/maps").read_text()
    except OSError:
        return None
    for path in {line.split(maxsplit=5)[5] for line in mapped.splitlines() if "libgomp" in line}:
        if "torch" in path:
            found = ctypes.CDLL(path)
            return found.GOMP_parallel, found.omp_get_num_threads, found.omp_get_thread_num
    return None
