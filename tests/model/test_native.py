"""The kernels in C: each equals the plain formula; the library is made once, and made anew when it was damaged."""

import math
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dunwu.core.errors import ModelError
from dunwu.delta.quantise import quantised
from dunwu.model.blocks.quantised import UNIT, QuantisedLinear
from dunwu.model.native import compiling, library
from dunwu.model.native.library import FLOAT32, INT8, ROWS_SIEVED, Matrix, Sieve, native
from dunwu.model.native.pages import LARGE, keep_together, on_large_pages

QUICK = ("-O0", *compiling.FLAGS[1:])
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on this machine")


@pytest.fixture
def own_cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "dunwu" / "kernels"


@needs_compiler
@settings(max_examples=60, deadline=None)
@given(
    outputs=st.integers(1, 130),
    inputs=st.integers(1, 200),
    rows=st.integers(1, 35),
    biased=st.booleans(),
    threads=st.integers(1, 3),
)
def test_a_product_is_the_plain_one(outputs, inputs, rows, biased, threads):
    kernels = native()
    assert kernels is not None
    generator = torch.Generator().manual_seed(outputs * 1000 + inputs)
    weight, x = (torch.randn(size, inputs, generator=generator) for size in (outputs, rows))
    bias = torch.randn(outputs, generator=generator) if biased else None
    matrix = Matrix(
        weights=weight.data_ptr(),
        bias=0 if bias is None else bias.data_ptr(),
        outputs=outputs,
        inputs=inputs,
        group=inputs,
        kind=FLOAT32,
    )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = kernels.product(matrix, x)
    finally:
        torch.set_num_threads(before)
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    torch.testing.assert_close(found.double(), exact, atol=1e-5 * math.sqrt(inputs), rtol=1e-5)


@needs_compiler
@pytest.mark.parametrize("kind", ["float", "int8", "int4"])
@pytest.mark.parametrize("inputs", [64, 200, 640, 704, 1536, 2100])
def test_a_row_is_multiplied_alike_bit_for_bit_whatever_is_beside_it(kind, inputs):
    kernels = native()
    assert kernels is not None
    generator = torch.Generator().manual_seed(inputs)
    weight, x = torch.randn(101, inputs, generator=generator), torch.randn(300, inputs, generator=generator)
    if kind == "float":
        matrix = Matrix(weights=weight.data_ptr(), outputs=101, inputs=inputs, group=inputs, kind=FLOAT32)
    else:
        bits = 8 if kind == "int8" or inputs % UNIT else 4
        few = QuantisedLinear(*quantised(weight, bits), bits=bits, bias=None)
        matrix, weight = few.matrix(), few.weight
    alone = torch.cat([kernels.product(matrix, row[None]) for row in x])
    exact = F.linear(x.double(), weight.double())
    torch.testing.assert_close(
        alone.double(), exact, atol=2e-5 * inputs**0.5 * (1 if kind == "float" else 10), rtol=1e-5
    )
    for rows in (2, 3, 4, 5, 6, 7, 8, 9, 17, 130, 300):
        assert torch.equal(kernels.product(matrix, x[-rows:]), alone[-rows:]), rows


@needs_compiler
@pytest.mark.parametrize("threads", [1, 3])
def test_the_likeliest_output_is_the_first_of_the_greatest_allowed(threads):
    kernels = native()
    assert kernels is not None
    generator = torch.Generator().manual_seed(threads)
    weight, x = torch.randint(-1, 2, (4999, 6), generator=generator).float(), torch.randn(40, 6, generator=generator)
    barred = torch.randint(0, 2, (4999,), generator=generator, dtype=torch.uint8)
    matrix = Matrix(weights=weight.data_ptr(), outputs=4999, inputs=6, group=6, kind=FLOAT32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for rows in (1, 2, 7, 8, 16, 17, 40):
            logits = kernels.product(matrix, x[:rows])
            for mask in (None, barred):
                allowed = logits if mask is None else logits.masked_fill(mask.bool(), -math.inf)
                first = [row.index(max(row)) for row in allowed.tolist()]
                assert kernels.likeliest(matrix, x[:rows], mask) == first
    finally:
        torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_an_output_that_is_not_finite_is_no_likeliest_one(odd):
    kernels = native()
    assert kernels is not None
    weight, x = torch.randn(500, 8), torch.ones(2, 8)
    x[1, 3] = odd
    matrix = Matrix(weights=weight.data_ptr(), outputs=500, inputs=8, group=8, kind=FLOAT32)
    assert kernels.likeliest(matrix, x, None) == [(weight @ x[0]).argmax().item(), -1]
    only = torch.ones(500, dtype=torch.uint8)
    assert kernels.likeliest(matrix, x, only) == [-1, -1]
    only[77] = 0
    assert kernels.likeliest(matrix, x[:1], only) == [77]
    weight[400] = math.nan
    assert kernels.likeliest(matrix, x[:1], None) == [-1]
    only[400] = 1
    assert kernels.likeliest(matrix, x[:1], only) == [77]


def odd_heads():
    """Heads in which rounding to bytes says least: equal rows, rows that differ in a bit, of nothing, of unlike sizes."""
    generator = torch.Generator().manual_seed(5)
    plain = torch.randn(3001, 128, generator=generator)
    close = plain[:1].repeat(3001, 1)
    close[torch.arange(3001), torch.arange(3001) % 128] *= 1 + 2.0**-22
    spiky = plain * torch.where(torch.rand(3001, 128, generator=generator) < 0.01, 1e4, 1.0)
    unlike = plain * 10 ** torch.linspace(-42, 30, 3001)[:, None]
    empty = plain.clone()
    empty[::3] = 0
    whole = torch.randint(-1, 2, (3001, 128), generator=generator).float()
    return {"plain": plain, "close": close, "spiky": spiky, "unlike": unlike, "empty": empty, "whole": whole}


class Sifted:
    """A head of floats with a sieve of it, and room for that."""

    def __init__(self, weight: torch.Tensor) -> None:
        kernels = native()
        assert kernels is not None
        outputs, inputs = weight.shape
        if not kernels.can_sieve(inputs):
            pytest.skip("this processor has no AVX512 VNNI, for which the sieve is")
        self._whole, self._numbers = torch.empty(outputs, inputs, dtype=torch.int8), torch.empty(3, outputs)
        scales, slack, size = (row.data_ptr() for row in self._numbers)
        shape = {"outputs": outputs, "inputs": inputs, "group": inputs}
        self.kernels, self.room = kernels, torch.empty(ROWS_SIEVED, outputs)
        self.floats = Matrix(weights=weight.data_ptr(), kind=FLOAT32, **shape)
        self.rounded = Matrix(weights=self._whole.data_ptr(), scales=scales, kind=INT8, **shape)
        self.sieve = Sieve(bytes=self.rounded, slack=slack, size=size)
        self.make()

    def make(self) -> None:
        self.kernels.make_sieve(self.floats, self.sieve)

    def likeliest(self, x: torch.Tensor, barred: torch.Tensor | None = None) -> list[int]:
        return self.kernels.likeliest(self.floats, x, barred, (self.sieve, self.room))

    def plainly(self, x: torch.Tensor, barred: torch.Tensor | None = None) -> list[int]:
        return self.kernels.likeliest(self.floats, x, barred)


@needs_compiler
@pytest.mark.parametrize("name", odd_heads())
def test_a_sieve_lets_the_likeliest_through(name):
    weight = odd_heads()[name]
    head = Sifted(weight)
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(40, 128, generator=generator)
    x[3] *= 1e-36
    x[4] = 0
    x[5] *= torch.where(torch.arange(128) == 7, 1e6, 1.0)
    x[6], x[7] = weight[17] / weight[17].norm(), -weight[18]
    x[8] *= 1e-12
    x[9, 64:] = 0
    barred = torch.randint(0, 2, (3001,), generator=generator, dtype=torch.uint8)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            head.make()
            for rows in (1, 2, 7, 8, 16, 17, 40):
                for mask in (None, barred):
                    assert head.likeliest(x[:rows], mask) == head.plainly(x[:rows], mask), (threads, rows)
    finally:
        torch.set_num_threads(before)
    for row, value in ((2, math.nan), (1, math.inf)):
        x[row, 5] = value
    assert head.likeliest(x[:4]) == head.plainly(x[:4])
    weight[900, 3] = math.nan
    head.make()
    assert head.likeliest(x[:4]) == [-1] * 4
    only = torch.zeros(3001, dtype=torch.uint8)
    only[900] = 1
    assert head.likeliest(x[:4], only) == head.plainly(x[:4], only)


@needs_compiler
def test_a_sieve_counts_with_the_worst_that_rounding_can_do():
    """One output looks 63 greater than it is for the sum of its roundings, another 63 smaller: they change places."""
    weight = torch.zeros(300, 128)
    weight[:, 127] = 127  # the unit is 1
    weight[5, :127] = 10.51
    weight[200, :127] = 10.499
    weight[200, 0] = 13.499
    head = Sifted(weight)
    x = torch.ones(1, 128)
    x[0, 127] = 0
    exact, seen = head.kernels.product(head.floats, x)[0], head.kernels.product(head.rounded, x)[0]
    assert exact.argmax() == 200
    assert seen[5] - exact[5] > 60
    assert exact[200] - seen[200] > 60
    assert head.likeliest(x) == [200]
    assert (head.sieve.rows, head.sieve.computed) == (1, 2)


def test_off_by_the_environment(monkeypatch):
    monkeypatch.setenv(library.SWITCH, "off")
    assert native() is None


def test_without_a_compiler_the_reason_is_logged_and_torch_serves(monkeypatch, own_cache, caplog):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(library, "native", library.native)
    library._loaded.cache_clear()
    try:
        assert native() is None
        assert native() is None
    finally:
        library._loaded.cache_clear()
    assert len([record for record in caplog.records if "no C compiler" in record.getMessage()]) == 1


@needs_compiler
def test_a_compiler_that_fails_says_why(monkeypatch, own_cache, tmp_path):
    script = tmp_path / "cc"
    script.write_text("#!/bin/sh\necho 'the disk ate it' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    with pytest.raises(ModelError, match="the disk ate it"):
        compiling.library("step.c")
    assert not list(own_cache.iterdir())


@needs_compiler
def test_the_library_is_kept_and_a_damaged_one_is_made_anew(own_cache, monkeypatch):
    monkeypatch.setattr(compiling, "FLAGS", QUICK)
    path = compiling.library("step.c")
    assert own_cache.stat().st_mode & 0o777 == 0o700
    whole = path.read_bytes()
    monkeypatch.setattr(compiling, "_compiled", lambda source: pytest.fail("compiled again"))
    assert compiling.library("step.c") == path
    monkeypatch.setattr(compiling, "_compiled", lambda source: whole)
    for damaged in (whole[:1000], whole[:-1] + b"?", b""):
        path.write_bytes(damaged)
        assert compiling.library("step.c").read_bytes() == whole


def _compile(folder: str) -> bytes:
    os.environ["XDG_CACHE_HOME"] = folder
    compiling.FLAGS = QUICK
    return compiling.library("step.c").read_bytes()


@needs_compiler
def test_two_that_compile_at_the_same_time_both_get_a_whole_library(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        one, other = pool.map(_compile, [str(tmp_path)] * 2)
    assert one == other
    assert not [path for path in (tmp_path / "dunwu" / "kernels").iterdir() if path.suffix != ".so"]


@pytest.mark.parametrize("rows", [3, 1 << 19])
def test_large_pages_hold_what_is_put_there(rows):
    tensor = on_large_pages((rows, 5), torch.int8)
    assert not tensor.any()
    own = torch.arange(rows * 5).to(torch.int8).view(rows, 5)
    tensor.copy_(own)
    assert torch.equal(tensor, own)
    assert rows == 3 or tensor.data_ptr() % LARGE == 0


def test_quantised_weights_are_kept_together_too():
    torch.manual_seed(0)
    layers = [QuantisedLinear(*quantised(one, 8), bits=8, bias=None) for one in torch.randn(2, 900, 1600)]
    model = torch.nn.Sequential(*layers)
    before = [one.clone() for one in model.buffers()]
    keep_together(model)
    first, second = (layer.packed.data_ptr() for layer in layers)
    assert first % LARGE == 0
    assert first + layers[0].packed.nbytes <= second < first + LARGE
    assert all(map(torch.equal, model.buffers(), before))


def test_weights_kept_together_stay_what_they_were_and_learn():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(700, 900), torch.nn.Linear(900, 33))
    model.register_parameter("again", model[0].weight)
    x = torch.randn(4, 700)
    expected, optimizer = model(x), torch.optim.SGD(model.parameters(), lr=0.1)
    keep_together(model)
    assert model[0].weight.data_ptr() % LARGE == 0
    torch.testing.assert_close(model(x), expected)
    model(x).square().sum().backward()
    before = model[1].weight.clone()
    optimizer.step()
    assert not torch.equal(model[1].weight, before)
