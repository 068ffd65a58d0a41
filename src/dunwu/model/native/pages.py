"""Large pages for what is read from end to end at every step: weights, keys and values.

A core here reads memory of 4 KiB pages at 17 GB/s and of 2 MiB pages at 29 (two: 26 and 33), for its prefetchers end at a page's
border. Linux gives large pages to whom asks for them before the memory is first touched.
"""

import contextlib
import mmap
import sys

import torch
from torch import Tensor, nn

LARGE = 2 << 20
LINE = 64
"""Bytes of a cache line."""


def on_large_pages(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor of zeros on a CPU; of `LARGE` bytes and more it begins at a large page, where the system has them.

    Its memory is new from the system: what a program freed and is given again lies on the pages that it was first touched as.
    """
    elements = int(torch.Size(shape).numel())
    size = -(-elements * dtype.itemsize // LARGE) * LARGE
    if elements * dtype.itemsize < LARGE or not sys.platform.startswith("linux"):
        return torch.zeros(shape, dtype=dtype)
    room = mmap.mmap(-1, size + LARGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # whoever can't have them has small ones
        room.madvise(mmap.MADV_HUGEPAGE)
    bytes_ = torch.frombuffer(room, dtype=torch.uint8)
    start = -bytes_.data_ptr() % LARGE
    return bytes_[start : start + elements * dtype.itemsize].view(dtype).view(shape)


def keep_together(model: nn.Module) -> None:
    """Move the model's matrices into one piece of memory with large pages, in the order of its modules; their values, shapes
    and gradients stay.

    Only float32 and whole numbers of 8 bits on a CPU. Storage that several tensors share, or that others look into, is left alone.
    """
    with torch.inference_mode(False):  # the model may be trained again
        matrices = [*model.parameters(), *model.buffers()]
        found = [one for one in matrices if one.ndim >= 2 and _movable(one)]
        sizes = [-(-one.nbytes // LINE) * LINE for one in found]
        if sum(sizes) < LARGE:
            return
        room = on_large_pages((sum(sizes),), torch.uint8)
        done = 0
        for one, size in zip(found, sizes, strict=True):
            place = room[done : done + one.nbytes].view(one.dtype).view(one.shape)
            place.copy_(one.data)
            one.data = place
            done += size


def _movable(tensor: Tensor) -> bool:
    whole = not tensor.is_inference() and tensor.untyped_storage().nbytes() == tensor.nbytes
    return whole and tensor.is_cpu and tensor.dtype in (torch.float32, torch.int8, torch.uint8)
