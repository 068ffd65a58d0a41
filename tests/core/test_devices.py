"""What the machine is told to do keeps float32's precision, and its facts are plausible."""

import subprocess
import sys

import pytest
import torch

from dunwu.core import devices
from dunwu.core.errors import RecipeError

PRECISION_CHECK = """
import torch
from dunwu.core import devices
devices.prepare_cpu(1)
torch.manual_seed(0)
worst = 0.0
for rows, inner, columns in ((7, 300, 5), (128, 128, 128), (512, 1024, 64), (1, 4096, 512)):
    a, b = torch.randn(rows, inner), torch.randn(inner, columns)
    exact = a.double() @ b.double()
    bound = a.double().abs() @ b.double().abs()
    for product in (a @ b, torch.bmm(a[None], b[None])[0], torch.zeros(rows, columns).addmm_(a, b)):
        worst = max(worst, float(((product - exact).abs() / bound).max()))
print(worst)
"""


def test_products_keep_float32_precision_once_the_cpu_is_prepared() -> None:
    done = subprocess.run([sys.executable, "-c", PRECISION_CHECK], capture_output=True, text=True, check=True)
    # float32 rounds at 6e-8, bfloat16 at 4e-3, tf32 at 5e-4
    assert float(done.stdout) < 1e-6


def test_products_of_few_rows_puts_back_what_was() -> None:
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    with devices.products_of_few_rows():
        assert settings.fp32_precision == "ieee"
    assert settings.fp32_precision == before


def test_dtype_by_device() -> None:
    cpu = torch.device("cpu")
    assert devices.pick_dtype(cpu) == torch.float32
    assert devices.pick_dtype(torch.device("cuda")) == torch.bfloat16
    assert devices.pick_dtype(cpu, "bfloat16") == torch.bfloat16
    with pytest.raises(RecipeError, match="dtype='int8' is not known; use"):
        devices.pick_dtype(cpu, "int8")


def test_the_probe_finds_a_plausible_rate() -> None:
    flops = devices.measure_matmul_flops(torch.device("cpu"), torch.float32, seconds=0.05, size=128)
    assert 1e7 < flops < 1e14


def test_peak_memory_follows_an_allocation() -> None:
    before = devices.peak_memory_bytes()
    block = torch.ones(devices.peak_memory_bytes() // 4 + 25_000_000)
    assert devices.peak_memory_bytes() >= before + block.numel()


def test_threads_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert devices.available_cores() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "not a number")
    assert devices.available_cores() >= 1
