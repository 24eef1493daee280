"""What a process that runs untrusted code may not do, as far as an unprivileged process can say so.

- resource limits: address space, processor time, size of a file, open files, no core dumps;
- Landlock (Linux 5.13): nothing is written outside the working folder, and nothing read but what
  Python itself needs, so no home folder, no data set and no other process's environment;
- a seccomp filter (Linux on x86-64 and 64-bit ARM): no sockets, no new processes, no signals to
  others, no tracing, no change of priorities, modes, owners, times and limits; where there is no
  filter, a network namespace of its own instead.

Every function gives what it could not enforce. Runs in the process itself, before the code, and
there is no way back. Imports nothing from `dopr` (see worker.py).
"""

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_NO_NEW_PRIVILEGES, _SECCOMP = 38, 22  # prctl
_FILTER_MODE = 2

# Landlock, the same system calls on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_FOLDER = 1, 2, 4, 8
_READ = _EXECUTE | _READ_FILE | _READ_FOLDER
_SPECIAL = 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11  # making devices, sockets and named pipes
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14 | 1 << 15
_ACCESSES = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # kinds of access by version
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/nix/store")

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Numbers of system calls on x86-64 and on 64-bit ARM; None where there is none.
_FORBIDDEN = {
    # Other machines and other programs: sockets, shared objects that outlive the process.
    **{"socket": (41, 198), "io_uring_setup": (425, 425), "mq_open": (240, 180)},
    **{"shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190)},
    # Other processes: new ones, signals, tracing, their memory, their share of the processor.
    **{"fork": (57, None), "vfork": (58, None), "tkill": (200, 130)},
    **{"rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240)},
    **{"pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438)},
    **{"ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271)},
    **{"process_madvise": (440, 440), "process_mrelease": (448, 448), "kcmp": (312, 272)},
    **{"migrate_pages": (256, 238), "move_pages": (279, 239), "setpriority": (141, 140)},
    **{"sched_setparam": (142, 118), "sched_setscheduler": (144, 119)},
    **{"sched_setaffinity": (203, 122), "sched_setattr": (314, 274), "ioprio_set": (251, 30)},
    **{"setsid": (112, 157), "setpgid": (109, 154), "setrlimit": (160, 164)},
    # What Landlock leaves free, all versions or the first ones: modes, owners, times, attributes,
    # truncation, watching folders, devices.
    **{"chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452)},
    **{"chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54)},
    **{"utime": (132, None), "utimes": (235, None), "futimesat": (261, None)},
    **{"utimensat": (280, 88), "truncate": (76, 45), "setxattr": (188, 5), "lsetxattr": (189, 6)},
    **{"fsetxattr": (190, 7), "setxattrat": (463, 463), "removexattr": (197, 14)},
    **{"lremovexattr": (198, 15), "fremovexattr": (199, 16), "removexattrat": (466, 466)},
    **{"inotify_init": (253, None), "inotify_init1": (294, 26), "fanotify_init": (300, 262)},
    **{"mknod": (133, None), "mknodat": (259, 33), "open_by_handle_at": (304, 265)},
    # The system, should this process be root's.
    **{"unshare": (272, 97), "setns": (308, 268), "chroot": (161, 51), "pivot_root": (155, 41)},
    **{"mount": (165, 40), "umount2": (166, 39), "open_tree": (428, 428)},
    **{"move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431)},
    **{"fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442)},
    **{"bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282)},
    **{"keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218)},
    **{"reboot": (169, 142), "kexec_load": (246, 104), "kexec_file_load": (320, 294)},
    **{"init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106)},
    **{"settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171)},
    **{"clock_adjtime": (305, 266), "sethostname": (170, 161), "setdomainname": (171, 162)},
    **{"acct": (163, 89), "swapon": (167, 224), "swapoff": (168, 225), "syslog": (103, 116)},
    **{"iopl": (172, None), "ioperm": (173, None)},
}
_KILL, _TGKILL, _CLONE, _CLONE3, _PRLIMIT = (62, 129), (234, 131), (56, 220), (435, 435), (302, 261)
_OPEN, _OPENAT, _OPENAT2, _FCNTL = (2, None), (257, 56), (437, 437), (72, 25)
_PRCTL, _SOCKETPAIR = (157, 167), (53, 199)
_A_THREAD = 0x10000  # CLONE_THREAD
_END_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_OWNER_AND_SIGNAL = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX
_ALLOW, _DENY, _NOT_THERE, _END_PROCESS = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000


def apply(folder: Path, memory_mb: int, seconds: float, file_mb: float) -> list[str]:
    """Limit this process for good; what could not be enforced.

    Args:
        folder: the only one where files may be written.
        memory_mb: address space, mebibytes.
        seconds: of processor time.
        file_mb: size of one file, mebibytes.
    """
    unenforced = limit_resources(memory_mb, seconds, file_mb)
    if sys.platform != "linux":
        return [*unenforced, "files elsewhere", "network", "other processes"]
    network = _forbid_calls()
    alone = [] if network is None else isolate_network()
    if network is not None:
        unenforced += [*alone, f"other processes ({network})"]
    return unenforced + confine_files(folder)


def limit_resources(memory_mb: int, seconds: float, file_mb: float) -> list[str]:
    """Address space, processor time, size of files, open files, core dumps."""
    if resource is None:
        return ["memory", "processor time", "size of files"]
    failed = []
    wanted = (
        ("memory", "RLIMIT_AS", int(memory_mb * 2**20)),
        ("processor time", "RLIMIT_CPU", int(seconds) + 1),
        ("size of files", "RLIMIT_FSIZE", int(file_mb * 2**20)),
        ("open files", "RLIMIT_NOFILE", 64),
        ("core dumps", "RLIMIT_CORE", 0),
    )
    for name, constant, value in wanted:
        try:
            kind = getattr(resource, constant)
            _, hard = resource.getrlimit(kind)
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (value, value))
        except (OSError, ValueError, AttributeError) as error:
            failed.append(f"{name} ({error})")
    if sys.platform == "darwin":
        failed.append("memory (macOS does not apply it)")
    return failed


def isolate_network() -> list[str]:
    """A network namespace without any interface, where the system lets anyone have one."""
    if _libc().unshare(_NEW_USER | _NEW_NETWORK) == 0:
        return []
    return [f"network (unshare: {os.strerror(ctypes.get_errno())})"]


def confine_files(folder: Path, readable: Iterable[str] = ()) -> list[str]:
    """Landlock: read what Python needs, write in `folder` alone."""
    libc = _libc()
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return [f"files elsewhere (Landlock: {os.strerror(ctypes.get_errno())})"]
    every = (1 << _ACCESSES.get(min(version, 5), 16)) - 1
    # TCP belongs to it since version 4, signals and abstract sockets since version 6.
    attributes = struct.pack("=QQQ", every, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return [f"files elsewhere (Landlock: {os.strerror(ctypes.get_errno())})"]
    own = {sys.prefix, sys.base_prefix, sys.exec_prefix, os.path.dirname(os.__file__)}
    own |= {entry for entry in sys.path if os.path.isdir(entry) and "-packages" in entry}
    rules = [(path, _READ) for path in (*_SYSTEM, *own, *readable)]
    rules += [(path, _READ_FILE | _WRITE_FILE) for path in _DEVICES]
    rules.append((str(folder), every & ~_SPECIAL))
    for path, access in rules:
        _allow_beneath(libc, ruleset, path, access & every)
    confined = (
        _prctl(libc, _NO_NEW_PRIVILEGES, 1) == 0 and libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0
    )
    error = ctypes.get_errno()
    os.close(ruleset)
    return [] if confined else [f"files elsewhere (Landlock: {os.strerror(error)})"]


def _allow_beneath(libc: ctypes.CDLL, ruleset: int, path: str, access: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # there is no such place here, so there is nothing to read
        return
    if not os.path.isdir(path):
        access &= _OF_FILES
    libc.syscall(_ADD_RULE, ruleset, 1, struct.pack("=Qi", access, place), 0)
    os.close(place)


def _forbid_calls() -> str | None:
    """Install the seccomp filter; why not, where it is not possible."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES or sys.maxsize < 2**32:
        return f"no filter of system calls for {machine}"
    libc = _libc()
    program = _filter(machine)
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    if _prctl(libc, _NO_NEW_PRIVILEGES, 1) != 0:
        return f"prctl: {os.strerror(ctypes.get_errno())}"
    if _prctl(libc, _SECCOMP, _FILTER_MODE, header) != 0:
        return f"seccomp: {os.strerror(ctypes.get_errno())}"
    return None


def _filter(machine: str) -> bytes:
    """The filter as instructions of the kernel's classic packet filter, 8 bytes each."""
    column = list(_ARCHITECTURES).index(machine)
    load, equal, at_least, any_of, mask, give = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
    number, architecture, first, second, third = 0, 4, 16, 24, 32

    def step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("=HBBI", code, yes, no, value)

    def on(call: tuple[int | None, int | None], *then: bytes) -> list[bytes]:
        """What becomes of a call; each of `then` ends in a verdict."""
        found = call[column]
        return [] if found is None else [step(equal, found, 0, len(then)), *then]

    allow, deny = step(give, _ALLOW), step(give, _DENY)

    def refused(values: tuple[int, ...]) -> list[bytes]:
        """The verdict on an argument that is loaded: denied where it is one of these."""
        return [*(part for v in values for part in (step(equal, v, 0, 1), deny)), allow]

    only_own = [step(load, first), step(equal, os.getpid(), 1, 0), deny, allow]
    steps = [
        step(load, architecture),
        step(equal, _ARCHITECTURES[machine], 1, 0),
        step(give, _END_PROCESS),
        step(load, number),
        step(at_least, 0x40000000, 0, 1),  # the other set of numbers of x86-64
        deny,
    ]
    for call in _FORBIDDEN.values():
        steps += on(call, deny)
    for call in (_CLONE3, _OPENAT2):  # its arguments cannot be seen; libc then takes the older one
        steps += on(call, step(give, _NOT_THERE))
    # A new thread is allowed, a new process is not.
    steps += on(_CLONE, step(load, first), step(any_of, _A_THREAD, 1, 0), deny, allow)
    for call in (_KILL, _TGKILL):  # a process may end itself
        steps += on(call, *only_own)
    # Limits may be read, not set: the third argument is the new limit.
    unset = [step(load, third), step(equal, 0, 0, 3), step(load, third + 4), step(equal, 0, 0, 1)]
    steps += on(_PRLIMIT, *unset, allow, deny)
    # It ends with its parent, whatever it says, and sends no signals by way of a file.
    steps += on(_PRCTL, step(load, first), *refused((_END_WITH_PARENT,)))
    steps += on(_FCNTL, step(load, second), *refused(_OWNER_AND_SIGNAL))
    # A pair of streams leads nowhere (asyncio has one); one of datagrams reaches other sockets.
    stream = [step(load, second), step(mask, 0xF), step(equal, 1, 1, 0)]
    steps += on(_SOCKETPAIR, *stream, deny, allow)
    # Landlock's first versions let a file be emptied by opening it to be read.
    for call, flags in ((_OPEN, second), (_OPENAT, third)):
        steps += on(call, step(load, flags), step(mask, 0x203), *refused((os.O_TRUNC,)))
    steps.append(allow)
    return b"".join(steps)


def _prctl(libc: ctypes.CDLL, option: int, value: int, pointer: bytes | None = None) -> int:
    zero = ctypes.c_ulong(0)
    status: int = libc.prctl(option, ctypes.c_ulong(value), pointer or zero, zero, zero)
    return status


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc
