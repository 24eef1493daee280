"""One fixed prompt for the whole run: 1-shot RLVR."""

from dataclasses import dataclass, field

from dopr.core.errors import UserError
from dopr.core.ledger import Ledger
from dopr.core.moves import Moves
from dopr.core.strategy import Request, StepPlan, Strategy, require
from dopr.core.stream import PromptStream
from dopr.strategies.parts.candidates import at_least_one
from dopr.strategies.parts.learning_curves import load_history, rank_by_history, recorded_entries


@dataclass
class OneShot(Strategy):
    """Train on one prompt, repeated to fill the batch.

    Args:
        prompt: row number of the prompt in the pool; ignored where `history` is given.
        history: JSON file of per-epoch accuracies of a pre-run; the prompt of highest variance is
            taken. The pre-run's rollouts are a cost of this method and counted from the start.
        history_group_size: rollouts behind each accuracy in the file.
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
    history_group_size: int = 8
    _entries: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        require(self.prompt >= 0, f"prompt is {self.prompt}; row numbers start at 0")
        at_least_one(copies=self.copies, history_group_size=self.history_group_size)
        if self.history is not None:
            self.prompt = rank_by_history(self.history)[0]
            self._entries = recorded_entries(load_history(self.history))

    @property
    def prepaid_rollouts(self) -> int:
        return self._entries * self.history_group_size

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        if self.prompt >= prompts.size:
            raise UserError(
                f"one_shot's prompt {self.prompt} is not in the pool of {prompts.size} prompts"
            )
        groups = yield [Request(self.prompt, self.num_generations)] * self.copies
        return groups

    def move(self, moves: Moves) -> None:
        """Refuse other rows where the number of the one prompt now stands for another one.

        Raises:
            UserError: it does.
        """
        super().move(moves)
        row = int(moves.row[self.prompt]) if self.prompt < len(moves.row) else -1
        if row != self.prompt:
            where, mend = f"in row {row}", f"set strategy_args.prompt to {row}"
            if row < 0:
                where, mend = "gone", "resume with a dataset that has it"
            if self.history is not None:
                mend = "resume with the rows that the history is of"
            raise UserError(
                "the dataset has changed since the checkpoint: the prompt that one_shot trains on, "
                f"row {self.prompt}, is now {where}; {mend}"
            )
