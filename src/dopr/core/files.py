"""Writing files so that a reader never finds half of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write in place of `path`: it takes that name, in one step, once it is whole.

    Nothing is left of it where writing fails.
    """
    # A name of its own for each process: several may write the same file at once.
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file in one step: a reader sees the old content or the new, never half of it.

    Args:
        path: in a folder that exists.
        content: text is written as UTF-8.
    """
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
