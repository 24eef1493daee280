"""One fixed prompt for the whole run: 1-shot RLVR."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dopr.errors import UserError
from dopr.ledger import Ledger
from dopr.strategies.base import Request, StepPlan, Strategy, require
from dopr.stream import PromptStream


def rank_by_history(path: str | Path) -> list[int]:
    """Prompts of a recorded history, highest standard deviation of per-epoch accuracy first.

    Args:
        path: JSON object, prompt index -> list of per-epoch mean training accuracies.

    Raises:
        UserError: the file is missing or of another shape.

    Source: 1-shot RLVR [2504.20571, V], historical variance score.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"no history file {str(path)!r}; give a JSON file of per-epoch accuracies")
    try:
        history = json.loads(file.read_text())
        spread = {int(prompt): float(np.std(values)) for prompt, values in history.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{str(path)!r} is not a history: expected a JSON object of prompt index -> list of "
            f"accuracies ({error})"
        ) from None
    if not spread:
        raise UserError(f"the history {str(path)!r} holds no prompt")
    return sorted(spread, key=lambda prompt: (-spread[prompt], prompt))


@dataclass
class OneShot(Strategy):
    """Train on one prompt, repeated to fill the batch.

    Args:
        prompt: row number of the prompt in the pool; ignored where `history` is given.
        history: JSON file of per-epoch accuracies of a pre-run; the prompt of highest variance is
            taken. The pre-run's rollouts are a cost of this method; whoever compares adds them.
        copies: groups of that prompt in a step (128 in the paper).

    Source: 1-shot RLVR [2504.20571, V].
    """

    name = "one_shot"
    summary = "one fixed prompt, or the first of a history-variance ranking"
    source = "1-shot RLVR, arXiv 2504.20571"
    mark = "V"

    prompt: int = 0
    history: str | None = None
    copies: int = 1

    def __post_init__(self) -> None:
        require(self.copies >= 1, f"copies is {self.copies}; it must be at least 1")
        require(self.prompt >= 0, f"prompt is {self.prompt}; row numbers start at 0")
        if self.history is not None:
            self.prompt = rank_by_history(self.history)[0]

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        if self.prompt >= prompts.size:
            raise UserError(
                f"one_shot's prompt {self.prompt} is not in the pool of {prompts.size} prompts"
            )
        groups = yield [Request(self.prompt, self.num_generations)] * self.copies
        return groups
