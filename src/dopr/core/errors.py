"""The one exception that means "you asked for something that cannot be"."""

import difflib
import os
import signal
from collections.abc import Iterable
from unicodedata import category

# Control characters, ends of lines and paragraphs, and halves of surrogate pairs.
_CONTROL = ("Cc", "Zl", "Zp", "Cs")


class UserError(Exception):
    """A mistake in what the user asked for.

    The message is one sentence that names the mistake and the mend. The command line prints it and
    exits with status 2. What was given may be part of it: line ends and control characters are
    shown as escapes, so that no name of a file or column breaks the sentence or the terminal.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(repr(c)[1:-1] if category(c) in _CONTROL else c for c in message))


class Terminated(KeyboardInterrupt):
    """SIGTERM, as what runs can put its things in order before it ends."""


def end_as_usual(number: int) -> None:
    """End this process by a signal as if nobody had asked to handle it."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not known, offering the nearest one that is.

    Args:
        kind: what the name should have been, such as "strategy".
        name: what was given.
        known: every accepted name.
    """
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(names)}"
    return UserError(f"unknown {kind} {name!r}; {hint}")
