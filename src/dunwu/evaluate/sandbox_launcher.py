"""Sets the limits of a run, and its walls where asked for, and becomes the program; see `sandbox.py`.

Arguments: the program, "namespaces" or "none", and the limits in their order. With `--try` alone: whether namespaces can be made.
"""

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x20000,
    0x8000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
MS_REC, MS_PRIVATE = 0x4000, 0x40000


def limit(timeout_s: float, memory_bytes: int, file_bytes: int, open_files: int, processes: int) -> None:
    """Bounds that the system keeps for this process and all that it starts; each process counts for itself."""
    seconds = int(timeout_s) + 1
    for kind, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, open_files),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def enclose() -> None:
    """Into own namespaces: no network, and this process's children see no others. Raises OSError where that is forbidden."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def first_of_its_own() -> int:
    """Fork: the child is the first of the new process namespace, and whatever it starts dies with it. Returns 0 in the child, and
    in the parent, which waits for it, its exit status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] + (1 << 16)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None)
    libc.mount(b"proc", b"/proc", b"proc", 0, None)  # refused where the machine hides parts of its own
    return 0


def end_like(status: int) -> None:
    """Exit as the child did."""
    if os.WIFSIGNALED(status):
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL) if os.WTERMSIG(status) != signal.SIGKILL else None
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))


def main() -> None:
    """Limit, enclose, and become the program."""
    if sys.argv[1] == "--try":
        enclose()
        status = first_of_its_own()
        os._exit(0 if status == 0 else os.waitstatus_to_exitcode(status - (1 << 16)))
    program, wall, *numbers = sys.argv[1:]
    if wall == "namespaces":
        enclose()
        if status := first_of_its_own():
            end_like(status - (1 << 16))
    timeout_s, *most = numbers
    limit(float(timeout_s), *map(int, most))
    os.execv(sys.executable, [sys.executable, "-I", program])


if __name__ == "__main__":
    main()
