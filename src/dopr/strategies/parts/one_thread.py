"""Linear algebra on one thread: what a strategy solves in a step is small.

Threads for it would wait for each other longer than they compute, and take the cores from torch.
Only the libraries that NumPy has loaded are held down, only while a strategy computes, and nothing
is set in the environment.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def on_one_thread(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator: the function's linear algebra runs on one thread, whatever the number was.

    Without threadpoolctl the function runs as it is.
    """

    @functools.wraps(function)
    def held_down(*args: P.args, **kwargs: P.kwargs) -> R:
        libraries = _libraries()
        if libraries is None:
            return function(*args, **kwargs)
        with libraries.limit(limits=1):
            return function(*args, **kwargs)

    return held_down


@functools.cache
def _libraries() -> Any:
    """What holds NumPy's linear algebra; found once, since the search takes milliseconds."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController().select(user_api="blas")
