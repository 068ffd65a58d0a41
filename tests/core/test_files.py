"""Writing whole or not at all, and what a place that cannot be written comes to."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dunwu.cli.failures import Crash, crash_log
from dunwu.core.errors import DiskError
from dunwu.core.files import atomic_write, write_text


def test_a_file_that_may_not_grow_is_a_full_disk_and_leaves_what_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "kept.txt", "before")
    program = (
        "import resource, signal, sys; from pathlib import Path; from dunwu.core.files import write_text\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from dunwu.core.errors import DiskError\n"
        "try: write_text(Path(sys.argv[1]), 'x' * 5000)\n"
        "except DiskError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "kept.txt")], capture_output=True, text=True)
    assert "free some space" in done.stdout, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
    assert (tmp_path / "kept.txt").read_text() == "before"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="this system has no /proc")
def test_a_folder_in_which_no_file_can_be_made_is_named() -> None:
    with (
        pytest.raises(DiskError, match=r"cannot write /proc/x\.txt: .*choose a folder"),
        atomic_write(Path("/proc/x.txt")),
    ):
        pass


def test_a_disk_error_that_nobody_caught_is_no_fault_of_ours(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="No space left"), crash_log(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.gguf")
    with pytest.raises(Crash), crash_log(tmp_path):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
