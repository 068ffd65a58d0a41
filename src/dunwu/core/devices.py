"""What this machine is, and how to make the best of it."""

import contextlib
import ctypes
import functools
import importlib.util
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from dunwu.core.errors import RecipeError

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
_KERNELS_KEPT = 32  # more than the shapes of one step
_KEEP_BYTES = 512 << 20


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Facts of this machine. `flops` is the measured rate of matrix products in the training dtype, 1/s."""

    device: str
    name: str
    threads: int
    memory_bytes: int
    free_bytes: int
    dtype: str
    flops: float


def prepare_cpu(threads: int | None = None) -> None:
    """Use every core that we may use, and keep freed blocks instead of giving them back to the system.

    A training step frees and asks for the same large blocks again and again; with glibc's defaults each comes back from the
    kernel as zeroed pages, which cost 16 to 24% of a small model's step. Harmless where the C library is another one.
    """
    torch.set_num_threads(threads or available_cores())
    if sys.platform.startswith("linux"):
        keep_freed_memory()
    use_onednn_products()


def keep_few_kernels() -> None:
    """Bound what oneDNN and torch keep of the kernels that they make for each shape of product: by default 1,024 of each.

    Training has few shapes. An engine has another number of rows at almost every step: 800 answers of a tiny model grew a
    server from 440 to 1,030 MB, and with this to 520, at about the same pace. Call it before the first product.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(_KERNELS_KEPT))


def use_onednn_products() -> bool:
    """Let oneDNN make the float32 matrix products where it keeps float32's precision; True where it now does.

    MKL runs AVX2 kernels on AMD processors; oneDNN uses AVX512 where there is one: 450 against 200 GFLOP/s on two Zen 5 cores.
    torch hands products to oneDNN only when rounding to bfloat16 is allowed, which oneDNN then does on AMX alone. So we
    allow it, look whether anything was rounded, and take it back if so.
    """
    settings: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or settings is None:
        return False
    settings.fp32_precision = "bf16"
    if _products_are_exact():
        return True
    settings.fp32_precision = "ieee"
    return False


@contextlib.contextmanager
def products_of_few_rows() -> Generator[None]:
    """Hand products to MKL again for a while: below about 4 rows oneDNN's start costs more than its kernels win.

    Decoding one row of a 1.7M model takes 1.0 ms a token with MKL and 1.9 ms with oneDNN.
    """
    settings: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if settings is None:
        yield
        return
    before = settings.fp32_precision
    settings.fp32_precision = "ieee"
    try:
        yield
    finally:
        settings.fp32_precision = before


def _products_are_exact() -> bool:
    """Whether 1 + 2**-20, which bfloat16 and tf32 round to 1, comes through products of various shapes."""
    for rows, inner, columns in ((64, 64, 64), (256, 512, 384), (1, 256, 1024), (1024, 32, 16)):
        a = torch.eye(rows, inner) + torch.eye(rows, inner) * 2.0**-20
        b = torch.eye(inner, columns)
        for product in (a @ b, (b.T @ a.T).T, torch.bmm(a[None].expand(3, -1, -1), b[None].expand(3, -1, -1))[2]):
            if not torch.equal(
                product, (1 + 2.0**-20) * torch.eye(rows, columns) * (torch.arange(rows) < inner)[:, None]
            ):
                return False
    return True


def keep_freed_memory() -> bool:
    """Ask glibc to serve large blocks from its heap and not to trim it; False where there is no `mallopt`."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES) and mallopt(_M_TOP_PAD, 16 << 20))


def available_cores() -> int:
    """OMP_NUM_THREADS where it is set, else the physical cores that this process may run on."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def pick_device() -> torch.device:
    """The CUDA GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@functools.cache
def can_compile() -> bool:
    """Whether `torch.compile` can make kernels for a GPU here: it needs Triton and a C compiler."""
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang")))


def pick_dtype(device: torch.device, wanted: str = "auto") -> torch.dtype:
    """The dtype to compute in: bfloat16 on CUDA, float32 on a CPU, unless `wanted` names one.

    On a CPU without AVX512-BF16 or AMX, bfloat16 products are about 100 times slower than float32's; they are given to those
    who name them. Raises RecipeError when `wanted` is not known.
    """
    if wanted == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if wanted not in {"float32", "bfloat16"}:
        raise RecipeError(f"dtype={wanted!r} is not known; use auto, float32 or bfloat16")
    return torch.bfloat16 if wanted == "bfloat16" else torch.float32


def peak_memory_bytes() -> int:
    """The most memory that this process has held so far: resident bytes, which on CUDA leaves out the GPU's."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure_matmul_flops(device: torch.device, dtype: torch.dtype, *, seconds: float = 1.0, size: int = 1024) -> float:
    """Floating-point operations a second in a square matrix product, the best of what fits into `seconds`."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best, stop = float("inf"), time.perf_counter() + seconds
    runs = 0
    while runs < 3 or time.perf_counter() < stop:
        _synchronize(device)
        start = time.perf_counter()
        torch.mm(a, b)
        _synchronize(device)
        best = min(best, time.perf_counter() - start)
        runs += 1
    return 2 * size**3 / best


def machine(*, seconds: float = 1.0) -> Machine:
    """Look at this machine; `seconds` go to measuring matrix products."""
    device = pick_device()
    dtype = pick_dtype(device)
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
    else:
        memory = psutil.virtual_memory()
        free, total, name = memory.available, memory.total, cpu_name()
    return Machine(
        device=device.type,
        name=name,
        threads=torch.get_num_threads(),
        memory_bytes=total,
        free_bytes=free,
        dtype=str(dtype).removeprefix("torch."),
        flops=measure_matmul_flops(device, dtype, seconds=seconds),
    )


def cpu_name() -> str:
    """The processor's name as the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
