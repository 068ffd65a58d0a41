"""Programs that try to get out, run for real behind each set of walls that this machine has: none may."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from dunwu.core.errors import RecipeError
from dunwu.evaluate import sandbox, sandbox_launcher
from dunwu.evaluate.sandbox import Limits, Walls, run_python, walls

HERE = walls()
QUICK = Limits(timeout_s=8)
SHORT = Limits(timeout_s=0.5)
SECRET = "the secret of this machine"
OUT = "ESCAPED"

SETS = {
    "all walls": HERE,
    "namespaces alone": Walls(namespaces=True, seccomp=False, landlock=0),
    "Landlock and seccomp": Walls(namespaces=False, seccomp=True, landlock=HERE.landlock),
}


def there(one):
    return (
        one.hold and one.namespaces <= HERE.namespaces and one.seccomp <= HERE.seccomp and one.landlock <= HERE.landlock
    )


@pytest.fixture(params=SETS, scope="module")
def behind(request):
    if not there(SETS[request.param]):
        pytest.skip(f"this machine has not the walls for {request.param}")
    return SETS[request.param]


def open_to_all():
    """A folder that every user may enter and fill; pytest closes its own to others whenever a run begins."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.fixture(scope="module")
def outside():
    yield from open_to_all()


@pytest.fixture
def for_all():
    yield from open_to_all()


@pytest.fixture(scope="module")
def world(outside):
    """What there is to reach: a secret file, listeners that count who comes, a process, a descriptor."""
    secret = outside / "secret.txt"
    secret.write_text(SECRET)
    secret.chmod(0o666)
    came: list[str] = []
    tcp, unix, abstract = socket.socket(), socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    tcp.bind(("127.0.0.1", 0))
    udp.bind(("127.0.0.1", 0))
    unix.bind(str(outside / "socket"))
    (outside / "socket").chmod(0o777)
    abstract.bind(f"\0dunwu-test-{os.getpid()}")
    for listener in (tcp, unix, abstract):
        listener.listen()
        threading.Thread(target=_count, args=(listener, came), daemon=True).start()
    threading.Thread(target=lambda: came.append(str(udp.recv(9))), daemon=True).start()
    victim = subprocess.Popen([sys.executable, "-c", f"import time; s = {SECRET!r}; time.sleep(600)"])
    inherited = os.open(secret, os.O_RDWR)
    os.set_inheritable(inherited, True)
    yield SimpleNamespace(
        folder=outside,
        secret=secret,
        came=came,
        tcp=tcp.getsockname()[1],
        udp=udp.getsockname()[1],
        victim=victim,
        abstract=f"\0dunwu-test-{os.getpid()}",
    )
    victim.kill()
    victim.wait()
    os.close(inherited)
    for listener in (tcp, unix, abstract, udp):
        listener.close()


def _count(listener, came):
    with contextlib.suppress(OSError):
        while True:
            listener.accept()
            came.append(str(listener.family))


READ = "print('ESCAPED' if {what} else 'held')"
ATTACKS = {
    "read a file of the system": "print('ESCAPED' if 'root:' in open('/etc/passwd').read() else '')",
    "read a secret": "print('ESCAPED', open(SECRET_FILE).read())",
    "list the folder of another": "print('ESCAPED', os.listdir(FOLDER))",
    "read a secret through a symbolic link": "os.symlink(SECRET_FILE, 'x'); print('ESCAPED', open('x').read())",
    "read a secret through a hard link": "os.link(SECRET_FILE, 'x'); print('ESCAPED', open('x').read())",
    "read a secret by going up": "print('ESCAPED', open('../' * 20 + SECRET_FILE[1:]).read())",
    "read a secret from an open folder": "d = os.open('.', os.O_RDONLY); print('ESCAPED', os.open('../' * 20 + SECRET_FILE[1:], os.O_RDONLY, dir_fd=d))",
    "read a secret through /proc/self/root": "print('ESCAPED', open('/proc/self/root' + SECRET_FILE).read())",
    "read a secret through another's root": "print('ESCAPED', open(f'/proc/{VICTIM}/root' + SECRET_FILE).read())",
    "read the memory of another": "print('ESCAPED', open(f'/proc/{VICTIM}/maps').read()[:9], open(f'/proc/{VICTIM}/mem', 'rb'))",
    "read the environment of another": "print('ESCAPED', open(f'/proc/{os.getppid()}/environ').read() + open(f'/proc/{PARENT}/environ').read())",
    "read a disk": "print('ESCAPED', [open('/dev/' + name, 'rb').read(9) for name in os.listdir('/dev') if name[:2] in ('vd', 'sd', 'nv', 'me')][0])",
    "make a device": "import stat; os.mknod('disk', 0o600 | stat.S_IFBLK, os.makedev(254, 0)); print('ESCAPED', open('disk', 'rb').read(9))",
    "write into another's file": "open(SECRET_FILE, 'a').write('x'); print('ESCAPED')",
    "write beside another's file": "open(FOLDER + '/new', 'w'); print('ESCAPED')",
    "write through a symbolic link": "os.symlink(FOLDER, 'y'); open('y/new', 'w'); print('ESCAPED')",
    "empty another's file": "os.truncate(SECRET_FILE, 0); print('ESCAPED')",
    "remove another's file": "os.unlink(SECRET_FILE); print('ESCAPED')",
    "rename another's file": "os.rename(SECRET_FILE, SECRET_FILE + 'x'); print('ESCAPED')",
    "change the mode of another's file": "os.chmod(SECRET_FILE, 0o777); print('ESCAPED')",
    "change the times of another's file": "os.utime(SECRET_FILE, (0, 0)); print('ESCAPED')",
    "write into Python itself": "open(os.__file__, 'a').write('x'); print('ESCAPED')",
    "write into Python's folder": "open(os.path.dirname(os.__file__) + '/evil.py', 'w'); print('ESCAPED')",
    "connect to this machine": "import socket; socket.create_connection(('127.0.0.1', TCP), 2); print('ESCAPED')",
    "send a datagram": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', UDP)); time.sleep(0.2)",
    "connect to a socket by its path": "import socket; s = socket.socket(socket.AF_UNIX); s.connect(FOLDER + '/socket'); print('ESCAPED')",
    "connect to an abstract socket": "import socket; s = socket.socket(socket.AF_UNIX); s.connect(ABSTRACT); print('ESCAPED')",
    "ask for a name": "import socket; print('ESCAPED', socket.getaddrinfo('example.com', 80))",
    "talk to the kernel's network": "import socket; s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); s.bind((0, 0)); s.send(b'x' * 99)\nif 'eth0' in str(socket.if_nameindex()): print('ESCAPED')",
    "signal its parent": "os.kill(PARENT, 0); print('ESCAPED')",
    "kill another": "os.kill(VICTIM, 9); print('ESCAPED')",
    "kill another by a descriptor": "import signal; signal.pidfd_send_signal(os.pidfd_open(VICTIM), 9); print('ESCAPED')",
    "trace another": "if libc.ptrace(16, VICTIM, 0, 0) == 0: print('ESCAPED')",
    "read the memory of another by a call": "b = ctypes.create_string_buffer(9); v = (ctypes.c_size_t * 2)(ctypes.addressof(b), 8)\nif libc.process_vm_readv(VICTIM, v, 1, (ctypes.c_size_t * 2)(0x400000, 8), 1, 0) > 0 or ctypes.get_errno() == 14: print('ESCAPED')",
    "slow another down": "os.setpriority(os.PRIO_PROCESS, VICTIM, 19); print('ESCAPED') if os.getpriority(os.PRIO_PROCESS, VICTIM) == 19 else 0",
    "limit another": "import resource; resource.prlimit(VICTIM, resource.RLIMIT_CPU, (1, 1)); print('ESCAPED')",
    "open a file by a raw call": "if libc.syscall(OPEN, -100, SECRET_FILE.encode(), 0) >= 0: print('ESCAPED')",
    "open a socket by a raw call": "import socket\nf = libc.syscall(SOCKET, 2, 1, 0)\nif f >= 0: socket.socket(fileno=f).connect(('127.0.0.1', TCP)); print('ESCAPED')",
    "open a socket by another number": "import socket\nf = libc.syscall(0x40000000 + SOCKET, 2, 1, 0)\nif f >= 0: socket.socket(fileno=f).connect(('127.0.0.1', TCP)); print('ESCAPED')",
    "open a file by its handle": "h = ctypes.create_string_buffer(b'\\x08\\0\\0\\0\\1\\0\\0\\0' + bytes([2, 0, 0, 0, 0, 0, 0, 0]))\nif libc.open_by_handle_at(os.open('/', os.O_PATH), h, 0) >= 0: print('ESCAPED')",
    "mount over its root": "if libc.mount(b'/', b'/tmp', None, 4096, None) == 0: print('ESCAPED')",
    "become root elsewhere": "if libc.unshare(0x10000000) == 0 and libc.mount(b'none', b'/', b'tmpfs', 0, None) == 0: print('ESCAPED')",
    "leave its root": "os.mkdir('d'); libc.unshare(0x10000000); os.chroot('d')\nfor _ in range(20): os.chdir('..')\nos.chroot('.'); print('ESCAPED', open(SECRET_FILE).read())",
    "become another user": "os.setuid(0); os.setgid(0); print('ESCAPED', open(SECRET_FILE).read())",
    "load a module into the kernel": "if libc.syscall(175, b'', 0, b'') == 0: print('ESCAPED')",
    "use descriptors that it was given": "for f in range(3, 1024):\n    try: print('ESCAPED', os.read(f, 9))\n    except OSError: pass",
    "find a secret in its environment": "print('ESCAPED' if 'DUNWU_TEST_SECRET' in os.environ else '')",
    "find the scorer in its memory": "import gc\nif any(name.startswith('dunwu') for name in sys.modules) or any(SECRET_TEXT in o for o in gc.get_objects() if isinstance(o, (dict, list)) and o is not globals() and len(o) < 100 and '__builtins__' not in o): print('ESCAPED')",
    "type into the terminal": "import fcntl, termios; fcntl.ioctl(os.open('/dev/tty', os.O_RDWR), termios.TIOCSTI, b'x'); print('ESCAPED')",
    "start a program that may more": "import subprocess; r = subprocess.run(['/usr/bin/su', '-c', 'cat ' + SECRET_FILE], capture_output=True, text=True); print('ESCAPED' if 'machine' in r.stdout else '')",
}

HEAD = """\
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
SECRET_FILE, FOLDER, VICTIM, PARENT, TCP, UDP, ABSTRACT = {values!r}
OPEN, SOCKET = (257, 41) if os.uname().machine == 'x86_64' else (56, 198)
SECRET_TEXT = 'the secret of' + ' this machine'
"""


def attack(text, world):
    values = (str(world.secret), str(world.folder), world.victim.pid, os.getpid(), world.tcp, world.udp, world.abstract)
    return HEAD.format(values=values) + text


def require_unharmed(world):
    assert world.secret.read_text() == SECRET
    assert world.secret.stat().st_mode & 0o777 == 0o666
    assert world.secret.stat().st_mtime > 1000
    assert sorted(os.listdir(world.folder)) == ["secret.txt", "socket"]
    assert world.victim.poll() is None
    assert world.came == []
    assert not (Path(os.__file__).parent / "evil.py").exists()


def one_after_the_other(world):
    """All attacks in one program, each in a process of its own."""
    each = json.dumps(ATTACKS)
    return attack(
        f"for name, text in {each}.items():\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        print('trying', name, flush=True)\n"
        "        try: exec(text)\n"
        "        except BaseException as error: print(type(error).__name__, error)\n"
        "        sys.stdout.flush()\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n",
        world,
    )


@pytest.mark.parametrize("name", ATTACKS)
def test_nobody_gets_out(name, world, monkeypatch):
    if not HERE.hold:
        pytest.skip("this machine has too few walls")
    monkeypatch.setenv("DUNWU_TEST_SECRET", SECRET)
    outcome = run_python(attack(ATTACKS[name], world), QUICK)
    assert OUT not in outcome.output, outcome
    assert SECRET not in outcome.output + outcome.errors
    require_unharmed(world)


def test_nobody_gets_out_of_fewer_walls(behind, world):
    outcome = run_python(one_after_the_other(world), QUICK, behind=behind)
    assert outcome.output.count("trying") == len(ATTACKS), outcome
    assert OUT not in outcome.output, outcome
    assert SECRET not in outcome.output + outcome.errors
    require_unharmed(world)


def test_the_attacks_are_real(world, monkeypatch):
    """Without walls a good part of them gets out: what is tried is what could be reached."""
    weak = Walls(namespaces=False, seccomp=False, landlock=0)
    harmless = [
        *("read a file of the system", "read a secret", "list the folder of another", "read a secret by going up"),
        *("read a secret through a symbolic link", "read a secret through /proc/self/root", "signal its parent"),
        *("connect to this machine", "connect to a socket by its path", "connect to an abstract socket"),
        *("open a file by a raw call", "open a socket by a raw call"),
    ]
    got_out = [name for name in harmless if OUT in run_python(attack(ATTACKS[name], world), QUICK, behind=weak).output]
    assert got_out == harmless
    deadline = time.monotonic() + 5
    while len(world.came) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(world.came) == 4
    world.came.clear()


TOKEN = f"dunwu-left-over-{os.getpid()}"
BOMBS = {
    "forks": "import os, time\nend = time.time() + 6\nwhile time.time() < end:\n    try: os.fork()\n    except OSError: pass",
    "forks that leave the session": "import os, time\nend = time.time() + 6\nwhile time.time() < end:\n    try:\n        if os.fork() == 0: os.setsid()\n    except OSError: pass",
    "threads": "import threading, time\nfor _ in range(5000):\n    try: threading.Thread(target=time.sleep, args=(6,)).start()\n    except RuntimeError: pass\ntime.sleep(3)",
    "memory": "x = bytearray(1 << 40)",
    "memory bit by bit": "x = []\nwhile True: x.append(bytes(1 << 20))",
    "memory of many processes": "import os, time\nfor _ in range(30):\n    if os.fork() == 0:\n        x = bytes(200 << 20); x = bytearray(x); time.sleep(6); os._exit(0)\ntime.sleep(6)",
    "output": "import sys\nwhile True: sys.stdout.write('x' * 65536)",
    "output that ignores its limit": "import os, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nwhile True:\n    try: os.write(1, b'x' * 65536)\n    except OSError: pass",
    "a huge file": "open('x', 'wb').write(bytes(1 << 30))",
    "a huge file with holes": "import os\nos.truncate(os.open('x', os.O_CREAT | os.O_RDWR), 1 << 40)",
    "many files": "import time\nfor n in range(400):\n    open(f'x{n}', 'wb').write(bytes(1 << 20))",
    "sleep": "import time; time.sleep(600)",
    "sleep that no signal ends": "import signal, time\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: time.sleep(600)",
    "a loop": "while True: pass",
    "a daemon": f"import os, subprocess, sys, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(60) # {TOKEN}'])\n    os._exit(0)\ntime.sleep(0.2)\nprint('started')",
    "recursion": "import sys; sys.setrecursionlimit(1 << 30)\nf = lambda: f()\nf()",
    "a crash": "import ctypes; ctypes.string_at(0)",
    "stopping itself": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    "stopping its parent": "import os, signal; os.kill(os.getppid(), signal.SIGSTOP); os.kill(os.getppid(), signal.SIGKILL)",
}


def left_over(*, writing_in=None, of=None):
    """Processes with our token, those whose output goes into a folder, and those of a user."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ours = TOKEN.encode() in (folder / "cmdline").read_bytes() or folder.stat().st_uid == of
            if ours or (writing_in and os.readlink(folder / "fd" / "1").startswith(str(writing_in))):
                found.append(folder.name)
    return found


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("walls", ["all walls", "Landlock and seccomp"])
def test_bombs_are_survived_and_nothing_is_left(name, walls, tmp_path, monkeypatch):
    behind = SETS[walls]
    if not there(behind):
        pytest.skip(f"this machine has not the walls for {walls}")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    outcome = run_python(BOMBS[name], QUICK if name == "a daemon" else SHORT, behind=behind)
    assert len(outcome.output) <= sandbox.OUTPUT_BYTES
    assert left_over(writing_in=tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    if name == "a daemon":
        assert (outcome.status, outcome.output) == (0, "started\n")
    elif name in ("memory of many processes",):
        assert outcome.why in ("memory", "processes", "time")
    elif name in ("sleep", "sleep that no signal ends", "a loop", "stopping itself"):
        assert outcome.status is None or outcome.status < 0


def test_ordinary_programs_run(behind):
    text = (
        "import asyncio, collections, json, math, multiprocessing, os, random, re, subprocess, sys, tempfile, threading\n"
        "open('a.txt', 'w').write('x'); os.mkdir('d'); os.rename('a.txt', 'd/b'); assert open('d/b').read() == 'x'\n"
        "with tempfile.TemporaryFile() as f: f.write(b'y')\n"
        "t = threading.Thread(target=lambda: None); t.start(); t.join()\n"
        "assert subprocess.run([sys.executable, '-c', 'print(1)'], capture_output=True, text=True).stdout == '1\\n'\n"
        "assert asyncio.run(asyncio.sleep(0, 5)) == 5\n"
        "import numpy; assert numpy.ones(3).sum() == 3\n"
        "print(sum(map(int, input().split())))\n"
        "sys.exit(7)\n"
    )
    outcome = run_python(text, QUICK, given="2 3\n", behind=behind)
    assert (outcome.status, outcome.output, outcome.why) == (7, "5\n", None), outcome.errors


def test_without_walls_it_is_refused_unless_that_is_allowed(monkeypatch):
    none = Walls(namespaces=False, seccomp=False, landlock=0)
    monkeypatch.setattr(sandbox, "walls", lambda: none)
    with pytest.raises(
        RecipeError, match=r"cannot keep a program that a model wrote from files and network.*allow_weak=true"
    ):
        run_python("print(1)", QUICK)
    assert run_python("print(1)", QUICK, allow_weak=True).output == "1\n"
    assert none.said() == (sandbox.LIMITED,)
    assert not Walls(namespaces=False, seccomp=True, landlock=0).hold
    assert "Landlock 3" in Walls(namespaces=False, seccomp=True, landlock=3).said()[1]


def test_walls_that_cannot_be_built_are_an_error(monkeypatch):
    wrong = Walls(namespaces=False, seccomp=True, landlock=1)
    monkeypatch.setattr(sandbox, "_python", lambda: ["/nowhere"])
    outcome = None
    with contextlib.suppress(RecipeError):
        outcome = run_python("print('ran')", QUICK, behind=wrong)
    assert outcome is None or "ran" not in outcome.output


# The same for whoever is not root: the system's Python, since root's may not be read by others.

SYSTEM = shutil.which("python3", path="/usr/bin")
OTHER = 50_000 + os.getpid() % 10_000
AS_USER = ["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups"]


@pytest.mark.skipif(
    os.geteuid() != 0 or SYSTEM is None or shutil.which("setpriv") is None or not HERE.hold,
    reason="needs root, to become another, and the system's own Python",
)
@pytest.mark.parametrize("fewer", [False, True], ids=["all walls", "Landlock and seccomp"])
@pytest.mark.parametrize("name", ["attacks", "forks", "threads", "ordinary"])
def test_the_walls_of_another_user_hold(name, fewer, world, for_all):
    text = {
        "attacks": one_after_the_other(world),
        "ordinary": "import threading; threading.Thread(target=print, args=(1,)).start()",
    }
    ended, ran = as_another_user(text.get(name) or BOMBS[name], fewer, for_all, 8 if name == "attacks" else 1)
    assert "failed" not in ended, ended
    assert left_over(of=OTHER) == []
    if name == "attacks":
        assert ran.stdout.count("trying") == len(ATTACKS), ran
        assert OUT not in ran.stdout, ran
        assert SECRET not in ran.stdout + ran.stderr
        require_unharmed(world)
    elif name == "ordinary":
        assert (ended["status"], ran.stdout) == (0, "1\n"), ran


def as_another_user(text, fewer, folder, timeout_s):
    launcher, box = folder / "launcher.py", folder / "box"
    shutil.copy(sandbox_launcher.__file__, launcher)
    box.mkdir()
    os.chown(box, OTHER, OTHER)
    (box / "program.py").write_text(text)
    tried = subprocess.run([*AS_USER, SYSTEM, "-I", launcher, "--try"], capture_output=True, check=True)
    found = json.loads(tried.stdout)
    if fewer:
        found["walls"] = [one for one in found["walls"] if one != "namespaces"]
    if not found["walls"] or (fewer and not found["landlock"]):
        pytest.skip("other users get no such walls here")
    limits = {
        "timeout_s": timeout_s,
        "memory_bytes": 512 << 20,
        "file_bytes": 16 << 20,
        "open_files": 64,
        "processes": 64,
    }
    where = {"folder": str(box), "place": str(box), "python": [], "executable": SYSTEM}
    said, report = os.pipe()
    config = json.dumps({**found, **limits, **where, "report": report})
    command = [*AS_USER, SYSTEM, "-I", launcher, config]
    ran = subprocess.run(command, capture_output=True, text=True, pass_fds=(report,), cwd=folder, timeout=60)
    os.close(report)
    ended = json.loads(os.read(said, 65536).splitlines()[0])
    os.close(said)
    return ended, ran


def test_limits_say_why():
    assert run_python("while True: pass", SHORT).why == "time"
    assert run_python("import time; time.sleep(60)", SHORT).status is None
    assert "MemoryError" in run_python("x = bytearray(1 << 30)", QUICK).errors
    assert run_python("open('x', 'wb').write(bytes(1 << 25))", QUICK).status != 0
    assert "Too many open files" in run_python("a = [open('x', 'w') for _ in range(99)]", QUICK).errors


def test_it_sees_an_empty_folder_and_nothing_of_our_environment(behind, monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "s")
    seen = run_python("import os; print(os.listdir('.'), sorted(os.environ))", QUICK, behind=behind)
    assert seen.output == "['program.py'] ['HOME', 'LANG', 'OPENBLAS_NUM_THREADS', 'PATH', 'TMPDIR']\n"
