"""An empty folder to build in."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dunwu.build import training


@contextmanager
def new_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Within, it is the working folder; caches lie in it, and the speed of this machine is measured in a moment."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr(training, "EXACT_PROBE_S", (0.05, 0.05))
        patch.chdir(folder)
        yield folder
