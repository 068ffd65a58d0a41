import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Tiny tensors gain nothing from threads, and lose a hundredfold where other work keeps the cores busy.
torch.set_num_threads(1)


@pytest.fixture
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where the system has such a thing, for tests that write hundreds of checkpoints."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="dunwu-test-") as folder:
        yield Path(folder)
