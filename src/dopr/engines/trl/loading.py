"""The part of DoPRTrainer that holds the rows to choose among, and what the loader and resuming do.

Where a strategy goes by the loader's own order (uniform choice without options), the loader's rows
carry their number in a column of ours. It is taken out before anyone sees a row.
"""

from collections import deque
from typing import Any

from datasets import Dataset
from trl import GRPOTrainer

from dopr.core.driver import Driver
from dopr.core.stream import OfferedStream
from dopr.engines.prompt_pool import prompt_names, prompt_sources
from dopr.engines.trl.setup import (
    ROW,
    loader_order,
    loader_rows,
    prompt_stream,
    take_row_numbers,
)
from dopr.engines.trl.streaming import Window
from dopr.engines.trl.whole import newest_whole


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
    _window: Window | None

    def _take_pool(self, rows: Dataset) -> None:
        """Choose among these rows from now on."""
        self.prompt_names, self.prompt_sources = prompt_names(rows), prompt_sources(rows)
        if self.args.remove_unused_columns:  # rewards see what is left, as in TRL
            rows = self._remove_unused_columns(rows, "training")
        self._pool = rows

    @property
    def _in_loader_order(self) -> bool:
        """Prompts are taken as TRL's loader offers them, which promises TRL's own result."""
        return isinstance(self.driver.stream, OfferedStream)

    def _take_loader_order(self) -> None:
        """Hand the loader's batch on to a stream that goes by it."""
        if isinstance(self.driver.stream, OfferedStream):
            assert self.num_generations is not None  # TRL fills it in
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
        if resume_from_checkpoint is True:
            resume_from_checkpoint = newest_whole(self)
        return super().train(resume_from_checkpoint, *args, **kwargs)
