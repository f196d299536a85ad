"""System calls that the kernel refuses with EPERM, as a container's filter does.

    program.before_exec = forbid("io_uring_setup")
"""

import ctypes
import errno
import os
import struct

# Their numbers are the same on every architecture (asm-generic/unistd.h).
NUMBERS = {"io_uring_setup": 425, "io_uring_enter": 426}
PARAMS_BYTES = 120  # struct io_uring_params

LOAD_NUMBER, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
REFUSE, ALLOW = 0x00050000 | errno.EPERM, 0x7FFF0000
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, FILTER = 22, 38, 2


def forbid(call):
    """What forbids it to the process that calls it, and to those that it starts, for good. Needs no privilege. All is made
    ready here: between fork and exec as little as possible should happen."""
    filters = [(LOAD_NUMBER, 0, 0, 0), (JUMP_IF_EQUAL, 0, 1, NUMBERS[call]), (RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in filters))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(filters), ctypes.addressof(code)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def now(_keep=code):
        for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, FILTER, program, 0, 0)):
            if prctl(*arguments) != 0:
                raise OSError(ctypes.get_errno(), f"prctl {arguments[0]}")
    return now


def io_uring_allowed():
    """Whether this machine's kernel, its sysctl and the filters around us let a process make a ring."""
    made = ctypes.CDLL(None).syscall(NUMBERS["io_uring_setup"], 1, ctypes.create_string_buffer(PARAMS_BYTES))
    if made >= 0:
        os.close(made)
    return made >= 0
