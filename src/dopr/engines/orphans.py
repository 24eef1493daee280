"""Child processes that must not outlive the process that started them."""

import multiprocessing
import os


def is_orphan() -> bool:
    """Whether the process that started this one, by `multiprocessing`, is gone.

    Being a daemon does not help a child whose parent is killed: nobody is left to end it. Meant for
    children that were spawned or forked; the parent of a fork server's children is that server.
    """
    parent = multiprocessing.parent_process()
    return parent is not None and os.getppid() != parent.pid
