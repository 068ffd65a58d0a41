"""Large pages for what is read from end to end at every step: weights, keys and values.

A core here reads memory of 4 KiB pages at 17 GB/s and of 2 MiB pages at 29 (two: 26 and 33), for its prefetchers end at a page's
border. Linux gives large pages to whom asks for them before the memory is first touched.
"""

import ctypes
import sys

import torch
from torch import Tensor, nn

LARGE = 2 << 20
_MADV_HUGEPAGE = 14  # <sys/mman.h>


def on_large_pages(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor on a CPU whose memory begins at a large page, where the system has them."""
    elements = int(torch.Size(shape).numel())
    spare = LARGE // dtype.itemsize
    room = torch.empty(elements + 2 * spare, dtype=dtype)
    start = -room.data_ptr() % LARGE
    if sys.platform.startswith("linux"):
        size = -(-elements * dtype.itemsize // LARGE) * LARGE
        # Whoever can't have them has small ones.
        ctypes.CDLL(None).madvise(ctypes.c_void_p(room.data_ptr() + start), ctypes.c_size_t(size), _MADV_HUGEPAGE)
    first = start // dtype.itemsize
    return room[first : first + elements].view(shape)


def keep_together(model: nn.Module) -> None:
    """Move the model's matrices into one piece of memory with large pages; their values, shapes and gradients stay.

    Only float32 on a CPU. Storage that several parameters share, or that others look into, is left alone.
    """
    found = [parameter for parameter in model.parameters() if parameter.ndim >= 2 and _movable(parameter)]
    if sum(parameter.numel() for parameter in found) * 4 < LARGE:
        return
    with torch.inference_mode(False):  # the model may be trained again
        room = on_large_pages((sum(map(_padded, found)),), torch.float32)
        done = 0
        for parameter in found:
            place = room[done : done + parameter.numel()].view(parameter.shape)
            place.copy_(parameter.data)
            parameter.data = place
            done += _padded(parameter)


def _movable(parameter: Tensor) -> bool:
    whole = parameter.untyped_storage().nbytes() == parameter.numel() * parameter.element_size()
    return whole and parameter.is_cpu and parameter.dtype == torch.float32


def _padded(parameter: Tensor) -> int:
    """Elements up to the next cache line."""
    return -(-parameter.numel() // 16) * 16
