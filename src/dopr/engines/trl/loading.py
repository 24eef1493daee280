"""The part of DoPRTrainer that holds the rows to choose among, and what the loader and resuming do.

Where a strategy goes by the loader's own order (uniform choice without options), the loader's rows
carry their number in a column of ours. It is taken out before anyone sees a row.
"""

import logging
from collections import deque
from typing import Any

from datasets import Dataset, IterableDataset
from trl import GRPOTrainer

from dopr.core.driver import Driver
from dopr.core.errors import UserError
from dopr.core.stream import OfferedStream
from dopr.engines.prompt_pool import (
    as_shown,
    moves_since,
    pool_state,
    prompt_names,
    prompt_sources,
)
from dopr.engines.trl.selection import Selection
from dopr.engines.trl.setup import (
    ROW,
    check_answers,
    check_pool,
    loader_order,
    loader_rows,
    measurable,
    offered_stream,
    prompt_stream,
    take_row_numbers,
)
from dopr.engines.trl.streaming import Window
from dopr.engines.trl.whole import newest_whole

logger = logging.getLogger(__name__)


class LoadingTrainer(GRPOTrainer):
    """GRPOTrainer whose loader says which rows it offers, and which resumes from whole checkpoints.

    Attributes:
        driver: the running strategy.
        prompt_names: the id of each prompt of the pool, in the order of the ledger's rows.
        prompt_sources: the source of each, None where there is one source or none is named.
        offered: row numbers of the batch that the loader gave last, one a row of this process.
    """

    args: Any
    model: Any
    driver: Driver
    prompt_names: list[str]
    prompt_sources: list[str] | None
    offered: list[int]
    _signature_columns: Any
    _pool: Dataset
    _plain_pool: Dataset
    _pool_of: Any
    _rollouts_before: int
    _settings: Selection
    _window: Window | None

    def _take_pool(self, rows: Dataset) -> None:
        """Choose among these rows from now on."""
        plain = as_shown(rows)
        self.prompt_names, self.prompt_sources = prompt_names(plain), prompt_sources(plain)
        if self.args.remove_unused_columns:  # rewards see what is left, as in TRL
            rows = self._remove_unused_columns(rows, "training")
            plain = self._remove_unused_columns(plain, "training")
        self._pool, self._plain_pool, self._pool_of = rows, plain, self.train_dataset

    def _measurable(self) -> frozenset[str]:
        column = self._settings.answer_column
        return measurable(self._plain_pool, self.reward_funcs, self.tools, self._is_vlm, column)

    def _pool_rows(self, numbers: list[int]) -> list[dict[str, Any]]:
        """Rows of the pool as TRL's loader would give them, whatever their format."""
        return list(self._pool.__getitems__(numbers))

    def _follow_dataset(self) -> None:
        """Choose among the rows of `train_dataset` where it was replaced since the last training.

        What is known of prompts that are in both goes with them.
        """
        if self.train_dataset is self._pool_of:
            return
        before = pool_state(self.prompt_names, self.driver.stream)
        state = self.driver.state_dict()
        self._window = None
        if isinstance(self.train_dataset, IterableDataset):
            self._window = Window(self.train_dataset, self._settings.stream_window)
            self.train_dataset = self._window.rows
        check_pool(self.train_dataset)
        self._take_pool(self.train_dataset)
        told = self._measurable()
        check_answers(self.driver.strategy, told, self._plain_pool, self._settings.answer_column)
        make_stream = offered_stream if self._in_loader_order else prompt_stream
        self.driver.change_pool(make_stream(self._plain_pool, self.args), told)
        try:
            moves = moves_since(before, self.prompt_names, self.driver.stream)
            self.driver.load_state_dict(state, moves=moves)
        except UserError:  # no prompt is in both, or the strategy cannot tell which is which
            logger.info("train_dataset was replaced; nothing is known of its prompts yet")
            self.driver.change_pool(make_stream(self._plain_pool, self.args), told)

    @property
    def _in_loader_order(self) -> bool:
        """Prompts are taken as TRL's loader offers them, which promises TRL's own result."""
        return isinstance(self.driver.stream, OfferedStream)

    def _take_loader_order(self) -> None:
        """Hand the loader's batch on to a stream that goes by it."""
        if isinstance(self.driver.stream, OfferedStream):
            assert self.num_generations is not None  # TRL fills it in
            if not self.offered:
                raise UserError(
                    f"the loader's rows have lost the column {ROW!r}, which numbers them; keep it "
                    "where rows are collated, or let the strategy choose the prompts "
                    "(strategy_args: prompts_per_step)"
                )
            self.driver.stream.offer(loader_order(self.offered, self.num_generations))

    def _renew_window(self) -> None:
        """Of a streaming dataset, take the next rows once all of those held were offered."""
        window = self._window
        if window is not None and not window.whole and self.driver.stream.offered_all:
            window.refill()
            self._take_window(window)

    def _take_window(self, window: Window) -> None:
        self._take_pool(window.rows)
        self.driver.change_pool(prompt_stream(window.rows, self.args, window.number))

    def get_train_dataloader(self) -> Any:
        self._follow_dataset()
        usual = self.train_dataset
        if isinstance(usual, Dataset):
            self.train_dataset = loader_rows(usual, self.driver.stream, self.args)
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset = usual

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if ROW not in (self._signature_columns or []):
            self._signature_columns = [*(self._signature_columns or []), ROW]

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        result = super().get_batch_samples(*args, **kwargs)
        self._waiting = deque(take_row_numbers(batch) for batch in result[0])
        return result

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        waiting = getattr(self, "_waiting", None)
        if self.model.training and waiting:
            self.offered = waiting.popleft()
        return super()._prepare_inputs(generation_batch)

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As TRL's; `resume_from_checkpoint=True` takes the newest checkpoint that is whole.

        Raises:
            UserError: there are checkpoints and none of them is whole.
        """
        self._rollouts_before = 0  # a checkpoint has its own
        if resume_from_checkpoint is True:
            resume_from_checkpoint = newest_whole(self)
        if not resume_from_checkpoint and self.driver.ledger.step:
            self._rollouts_before = self.driver.spent.rollouts
        return super().train(resume_from_checkpoint, *args, **kwargs)
