"""Runs a program behind walls, watches it, and leaves nothing of it behind; see `sandbox.py`. Python's own library alone.

    launcher.py JSON    run what the configuration says; how it ended goes to the file descriptor `report`, as JSON
    launcher.py --try   print which walls there are here, as JSON

Three processes: this one watches time, memory and the number of processes from outside; the first of the new process namespace
builds the walls and, when the program ends, takes with it whatever that started; the program runs with no rights at all.
"""

import contextlib
import ctypes
import errno
import json
import os
import platform
import resource
import select
import signal
import struct
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
NEWCGROUP, NEWTIME = 0x2000000, 0x80
NAMESPACES = NEWUTS | NEWIPC | NEWPID | NEWNET  # that of mounts comes later: a new root moves all that share one
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 0x4000, 0x40000
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 24, 36, 38, 22
PR_SET_KEEPCAPS, PR_CAP_AMBIENT, CAP_DAC_READ_SEARCH = 8, 47, 2
SHOWN = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
BOX = "/box"
BOX_BYTES = 64 << 20
BOX_FILES = 4096
LOOK_S = 0.03
FIRST_USER = 0x70000000  # ids that no machine gives out; each run has its own, so that its processes are counted alone

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


# Walls: namespaces.


def separate() -> None:
    """Into own namespaces. Whoever is not root becomes the root of a user namespace of their own. Raises OSError."""
    if os.geteuid() == 0 and _libc.unshare(NAMESPACES) == 0:
        return
    user, group = os.getuid(), os.getgid()
    _checked(_libc.unshare(NEWUSER | NAMESPACES), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    kind_, data_ = (None if one is None else one.encode() for one in (kind, data))
    _checked(_libc.mount(source.encode(), target.encode(), kind_, flags, data_), f"mount {target}")


def own_root(place: str, shown: Iterable[str]) -> None:
    """A new root at `place`: what is shown, to be read, four devices, and an empty folder of bounded size. No /proc."""
    _checked(_libc.unshare(NEWNS), "unshare")
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    _mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for path in shown:
        if os.path.islink(path):
            _parents(place, path)
            os.symlink(os.readlink(path), place + path)
        elif os.path.exists(path):
            _show(place, path)
    for device in DEVICES:
        _parents(place, device)
        Path(place + device).touch()
        _mount(device, place + device, None, MS_BIND)
    os.mkdir(place + BOX)
    _mount("tmpfs", place + BOX, "tmpfs", MS_NOSUID | MS_NODEV, f"size={BOX_BYTES},nr_inodes={BOX_FILES},mode=755")
    os.mkdir(place + "/tmp")
    os.chdir(place)
    old = f"{place}/old"
    os.mkdir(old)
    _checked(_libc.syscall(_NUMBERS["pivot_root"], place.encode(), old.encode()), "pivot_root")
    os.chdir("/")
    _checked(_libc.umount2(b"/old", MNT_DETACH), "umount")
    os.rmdir("/old")
    _mount("none", "/", None, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_BIND)


def _parents(place: str, path: str) -> None:
    os.makedirs(place + os.path.dirname(path), exist_ok=True)


def _show(place: str, path: str) -> None:
    _parents(place, path)
    if os.path.isdir(path):
        os.makedirs(place + path, exist_ok=True)
    else:
        Path(place + path).touch()
    _mount(path, place + path, None, MS_BIND | MS_REC)
    kept = os.statvfs(path).f_flag & 0xF  # read-only, nosuid, nodev, noexec: what is set may not be taken away
    _mount("none", place + path, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | kept)


def without_rights(user: int | None, *, reads: bool) -> None:
    """Another user where root runs this, and none of root's rights; with `reads` that to look at files, for a Python that lies
    where others may not look, behind Landlock's walls. Raises OSError."""
    last = (
        int(Path("/proc/sys/kernel/cap_last_cap").read_text())
        if os.path.exists("/proc/sys/kernel/cap_last_cap")
        else 63
    )
    kept = 1 << CAP_DAC_READ_SEARCH if reads and user is not None else 0
    for one in range(last + 1):
        if not kept >> one & 1:
            _libc.prctl(PR_CAPBSET_DROP, one, 0, 0, 0)
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        _libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setresuid(user, user, user)
    header = struct.pack("Ii", 0x20080522, 0)
    if not kept or _libc.capset(header, struct.pack("6I", kept, kept, kept, 0, 0, 0)) < 0:
        _libc.capset(header, bytes(24))
        return
    _libc.prctl(PR_CAP_AMBIENT, 2, CAP_DAC_READ_SEARCH, 0, 0)


# Walls: Landlock.


def landlock_version() -> int:
    """0 where there is none."""
    return max(0, _libc.syscall(444, None, 0, 1)) if sys.platform == "linux" else 0


def landlock(version: int, read: Iterable[str], write: Iterable[str]) -> None:
    """No file but these from here on; no TCP (4), no abstract sockets and no signals to others (6). Raises OSError."""
    every = (
        (1 << 13) - 1
        | (1 << 13 if version >= 2 else 0)
        | (1 << 14 if version >= 3 else 0)
        | (1 << 15 if version >= 5 else 0)
    )
    files = 0b111 | (every & (1 << 14 | 1 << 15))
    attributes = struct.pack("QQQ", every, 0b11, 0b11)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = _checked(_libc.syscall(444, attributes, len(attributes), 0), "landlock")
    looking = 1 << 0 | 1 << 2 | 1 << 3
    for paths, rights in ((read, looking), (write, every)):
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
                allowed = rights if os.path.isdir(path) else rights & files
                _checked(_libc.syscall(445, ruleset, 1, struct.pack("=Qi", allowed, opened), 0), "landlock")
                os.close(opened)
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _checked(_libc.syscall(446, ruleset, 0), "landlock")
    os.close(ruleset)


# Walls: seccomp.

_X86_64 = {
    **{"socket": 41, "connect": 42, "accept": 43, "bind": 49, "listen": 50, "accept4": 288, "ptrace": 101, "clone": 56},
    **{"shmget": 29, "msgget": 68, "semget": 64, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161},
    **{"unshare": 272, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "keyctl": 250, "add_key": 248},
    **{
        "request_key": 249,
        "bpf": 321,
        "perf_event_open": 298,
        "userfaultfd": 323,
        "memfd_create": 319,
        "init_module": 175,
    },
    **{
        "open_by_handle_at": 304,
        "name_to_handle_at": 303,
        "finit_module": 313,
        "delete_module": 176,
        "kexec_load": 246,
    },
    **{
        "kexec_file_load": 320,
        "reboot": 169,
        "swapon": 167,
        "swapoff": 168,
        "acct": 163,
        "quotactl": 179,
        "syslog": 103,
    },
    **{
        "settimeofday": 164,
        "clock_settime": 227,
        "clock_adjtime": 305,
        "adjtimex": 159,
        "sethostname": 170,
        "kcmp": 312,
    },
    **{"setdomainname": 171, "iopl": 172, "ioperm": 173, "personality": 135, "vhangup": 153, "kill": 62, "tkill": 200},
    **{"tgkill": 234, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "prlimit64": 302, "chmod": 90, "fchmod": 91},
    **{"fchmodat": 268, "chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260, "setxattr": 188, "lsetxattr": 189},
    **{"fsetxattr": 190, "removexattr": 197, "lremovexattr": 198, "fremovexattr": 199, "utime": 132, "utimes": 235},
    **{"futimesat": 261, "utimensat": 280},
}
_AARCH64 = {
    **{
        "socket": 198,
        "connect": 203,
        "accept": 202,
        "bind": 200,
        "listen": 201,
        "accept4": 242,
        "ptrace": 117,
        "clone": 220,
    },
    **{"shmget": 194, "msgget": 186, "semget": 190, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51},
    **{"unshare": 97, "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271, "keyctl": 219, "add_key": 217},
    **{
        "request_key": 218,
        "bpf": 280,
        "perf_event_open": 241,
        "userfaultfd": 282,
        "memfd_create": 279,
        "init_module": 105,
    },
    **{
        "open_by_handle_at": 265,
        "name_to_handle_at": 264,
        "finit_module": 273,
        "delete_module": 106,
        "kexec_load": 104,
    },
    **{"kexec_file_load": 294, "reboot": 142, "swapon": 224, "swapoff": 225, "acct": 89, "quotactl": 60, "syslog": 116},
    **{
        "settimeofday": 170,
        "clock_settime": 112,
        "clock_adjtime": 266,
        "adjtimex": 171,
        "sethostname": 161,
        "kcmp": 272,
    },
    **{"setdomainname": 162, "personality": 92, "vhangup": 58, "kill": 129, "tkill": 130, "tgkill": 131},
    **{
        "rt_sigqueueinfo": 138,
        "rt_tgsigqueueinfo": 240,
        "prlimit64": 261,
        "fchmod": 52,
        "fchmodat": 53,
        "fchownat": 54,
    },
    **{"fchown": 55, "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15},
    **{"fremovexattr": 16, "utimensat": 88},
}
_SHARED = {
    **{"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429},
    **{"fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "clone3": 435, "pidfd_getfd": 438},
    **{"mount_setattr": 442, "memfd_secret": 447, "pidfd_send_signal": 424, "fchmodat2": 452},
}
_ARCHITECTURES = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}
_AUDIT, _OWN = _ARCHITECTURES.get(platform.machine(), (0, {}))
_NUMBERS: Mapping[str, int] = {**_OWN, **_SHARED} if _OWN else {"pivot_root": -1}
_SIGNALS = ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal")
_MARKS = frozenset(
    name for name in _NUMBERS if name.startswith(("chmod", "fch", "lch", "chown", "ut", "fut")) or "xattr" in name
)
"""Changes of a file that Landlock lets pass."""
_JUDGED = ("clone", "clone3", "prlimit64")
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x50000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06


def seccomp_program(*, signals: bool, marks: bool) -> bytes:
    """Refuses what no program of an answer needs: sockets, other processes, mounts, namespaces, keys, memory that no limit counts.
    Without `signals` those to any process too, and without `marks` changes of the owner, mode and times of any file."""
    allowed = (set(_SIGNALS) if signals else set[str]()) | (_MARKS if marks else set[str]()) | set(_JUDGED)

    def line(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
        return struct.pack("HBBI", code, true, false, value)

    refused = line(_RETURN, _ERRNO | errno.EPERM)
    code = [line(_LOAD, 4), line(_EQUAL, _AUDIT, 1, 0), line(_RETURN, _KILL), line(_LOAD, 0)]
    if platform.machine() == "x86_64":
        code += [line(_AT_LEAST, 0x40000000, 0, 1), line(_RETURN, _KILL)]  # the same calls by other numbers
    for name, number in _NUMBERS.items():
        if name not in allowed:
            code += [line(_EQUAL, number, 0, 1), refused]
    # clone3 hides its flags from a filter: the C library falls back to clone.
    code += [line(_EQUAL, _NUMBERS["clone3"], 0, 1), line(_RETURN, _ERRNO | errno.ENOSYS)]
    spaces = NEWNS | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET | NEWCGROUP | NEWTIME
    code += [line(_EQUAL, _NUMBERS["clone"], 0, 4), line(_LOAD, 16), line(_ANY_BIT, spaces & ~0xFF, 0, 1), refused]
    code += [line(_RETURN, _ALLOW)]
    code += [line(_EQUAL, _NUMBERS["prlimit64"], 0, 4), line(_LOAD, 16), line(_EQUAL, 0, 1, 0), refused]
    code += [line(_RETURN, _ALLOW), line(_RETURN, _ALLOW)]
    return b"".join(code)


def seccomp(*, signals: bool, marks: bool) -> None:
    """From here on, for this process and its children. Raises OSError."""
    program = ctypes.create_string_buffer(seccomp_program(signals=signals, marks=marks))
    filters = struct.pack("HxxxxxxQ", (len(program) - 1) // 8, ctypes.addressof(program))
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _checked(_libc.prctl(PR_SET_SECCOMP, 2, filters, 0, 0), "seccomp")


def limit(config: Mapping[str, Any]) -> None:
    """Bounds that the system keeps for each process."""
    for kind, most in (
        (resource.RLIMIT_CPU, int(config["timeout_s"]) + 1),
        (resource.RLIMIT_AS, config["memory_bytes"]),
        (resource.RLIMIT_FSIZE, config["file_bytes"]),
        (resource.RLIMIT_NOFILE, config["open_files"]),
        (resource.RLIMIT_NPROC, config["processes"] + config["beside"]),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS has not all of them
            resource.setrlimit(kind, (most, most))


# The three processes.


def inside(config: Mapping[str, Any], report: int) -> None:
    """Build the walls, run the program, end as it ends."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    walls, folder = config["walls"], config["folder"]
    program = Path(folder, "program.py").read_bytes()
    shown = [*SHOWN, *config["python"]]
    if "namespaces" in walls:
        os.umask(0o022)
        own_root(config["place"], shown)
        folder = BOX
        Path(folder, "program.py").write_bytes(program)
    user = config["user"]
    if user is not None:
        with contextlib.suppress(PermissionError):
            os.chown(folder, user, user)
    if sys.platform == "linux":
        without_rights(user, reads="namespaces" not in walls)
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # another user would lose it
        if os.getppid() != (0 if "namespaces" in walls else config["watcher"]):
            os._exit(125)
    os.chdir(folder)
    child = os.fork() if "namespaces" in walls else 0
    if child:
        os.close(report)
        _end_like(_reap_until(child))
    if config["landlock"]:
        landlock(config["landlock"], [*shown, *DEVICES], [folder, "/dev/null"])
    limit(config)
    if "seccomp" in walls:
        apart = "namespaces" in walls
        seccomp(signals=apart or config["landlock"] >= 6, marks=apart)
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": folder,
        "TMPDIR": folder,
        "LANG": "C.UTF-8",
        "OPENBLAS_NUM_THREADS": "1",
    }
    os.execve(config["executable"], [config["executable"], "-I", "-B", "program.py"], environment)


def _reap_until(child: int) -> int:
    """As the first process of a namespace: bury all that end, until the program does."""
    while True:
        ended, status = os.wait()
        if ended == child:
            return status


def _end_like(status: int) -> None:
    if os.WIFSIGNALED(status):
        os._exit(128 + os.WTERMSIG(status))  # the first of a namespace cannot kill itself
    os._exit(os.WEXITSTATUS(status))


def watch(child: int, config: Mapping[str, Any]) -> dict[str, Any]:
    """Wait for the end, or make it: at the timeout, or where all processes together have too much memory or are too many."""
    until = time.monotonic() + config["timeout_s"]
    why = None
    told_to_end: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told_to_end.append(number))
    waiting = select.poll()
    with contextlib.suppress(OSError, AttributeError):  # old kernels, and macOS
        waiting.register(os.pidfd_open(child), select.POLLIN)
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        memory, processes = used_by(child)
        if told_to_end or time.monotonic() > until:
            why = "time"
        elif memory > config["memory_bytes"]:
            why = "memory"
        elif processes > config["processes"]:
            why = "processes"
        elif "namespaces" not in config["walls"] and beyond(config["folder"]):
            why = "files"
        if why:
            end_all(child)
            _, status = os.waitpid(child, 0)
            break
        waiting.poll(LOOK_S * 1000)
    end_all(None)
    code = os.waitstatus_to_exitcode(status)
    if "namespaces" in config["walls"] and code > 128:
        code = 128 - code
    return {"status": None if why else code, "why": why}


def used_by(first: int) -> tuple[int, int]:
    """Bytes of memory of a process and all below it that they do not share with files, and how many there are."""
    memory = count = 0
    page = resource.getpagesize()
    for process in _below(first):
        with contextlib.suppress(OSError, ValueError, IndexError):
            words = Path(f"/proc/{process}/statm").read_text().split()
            memory += (int(words[1]) - int(words[2])) * page
            count += len(os.listdir(f"/proc/{process}/task"))
    return memory, count


def tasks_of(user: int) -> int:
    """Threads of all processes of a user."""
    count = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            count += len(os.listdir(folder / "task")) if folder.stat().st_uid == user else 0
    return count


def beyond(folder: str) -> bool:
    """Whether a folder that nothing else bounds has grown too large."""
    size = count = 0
    for place, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join(place, file)).st_blocks * 512
                count += 1
    return size > BOX_BYTES or count > BOX_FILES


def _below(first: int) -> list[int]:
    found, waiting = [], [first]
    while waiting:
        process = waiting.pop()
        found.append(process)
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{process}/task"):
                with contextlib.suppress(OSError):
                    waiting += map(int, Path(f"/proc/{process}/task/{task}/children").read_text().split())
    return found


def end_all(child: int | None) -> None:
    """Kill all that is left below this process. Stopped first, they cannot multiply meanwhile."""
    if child is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)  # with a namespace of processes, all of it
    for _ in range(1000):
        left = [one for one in _below(os.getpid())[1:] if one != child]
        if not left:
            return
        for sent in (signal.SIGSTOP, signal.SIGKILL):
            for one in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(one, sent)
        for one in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(one, os.WNOHANG)
        time.sleep(0.001)


def run(config: dict[str, Any]) -> dict[str, Any]:
    """Run a program and say how it ended."""
    report = config["report"]
    _close_all_but(0, 1, 2, report)
    os.set_inheritable(report, False)
    if sys.platform == "linux":
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    config["user"] = FIRST_USER + os.getpid() if os.geteuid() == 0 and config["walls"] else None
    if "namespaces" in config["walls"]:
        separate()
        if Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]:
            config["user"] = None  # in a user namespace there is one user only
    # Old kernels, and those without namespaces, count all that a user runs; more than `processes` of ours end it (`watch`).
    config["beside"] = tasks_of(os.getuid()) if config["user"] is None else 0
    config["watcher"] = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            inside(config, report)
        except BaseException as error:
            _say(report, {"failed": f"{type(error).__name__}: {error}"})
        os._exit(125)
    return watch(child, config)


def _close_all_but(*kept: int) -> None:
    with contextlib.suppress(OSError):
        for name in os.listdir("/dev/fd"):
            if int(name) not in kept:
                with contextlib.suppress(OSError):
                    os.close(int(name))


def _say(report: int, what: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):
        os.write(report, json.dumps(what).encode() + b"\n")


# Which walls are there?


def probe() -> dict[str, Any]:
    """Each is built once, in a process of its own."""
    if sys.platform != "linux":
        return {"walls": [], "landlock": 0}
    walls = [name for name, built in (("namespaces", _try_namespaces), ("seccomp", _try_seccomp)) if _succeeds(built)]
    version = landlock_version()
    return {
        "walls": walls,
        "landlock": version if version and _succeeds(lambda: landlock(version, ("/usr",), ())) else 0,
    }


def _try_namespaces() -> None:
    _checked(-1 if not _OWN else 0, "this processor")
    place = Path("/tmp") if os.path.isdir("/tmp") else Path.cwd()
    separate()
    child = os.fork()
    if child == 0:
        own_root(str(place), SHOWN)
        os._exit(0)
    _checked(-os.waitpid(child, 0)[1], "namespaces")


def _try_seccomp() -> None:
    _checked(-1 if not _OWN else 0, "this processor")
    seccomp(signals=True, marks=True)
    _checked(-1 if _libc.syscall(_NUMBERS["socket"], 1, 1, 0) >= 0 else 0, "seccomp")


def _succeeds(built: Any) -> bool:
    child = os.fork()
    if child == 0:
        try:
            built()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def main(words: Sequence[str]) -> None:
    """See above."""
    if words[0] == "--try":
        print(json.dumps(probe()))
        return
    config = json.loads(words[0])
    _say(config["report"], run(config))
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
