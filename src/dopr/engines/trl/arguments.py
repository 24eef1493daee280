"""Types of the trainer's arguments, for type checkers: GRPOTrainer's own.

Rewards are told more widely than TRL tells them: a function may return a `list[float]`, and any
sequence of functions will do.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from peft import PeftModel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

Model: TypeAlias = str | PreTrainedModel | PeftModel
Scores: TypeAlias = Sequence[float | None]
Reward: TypeAlias = str | PreTrainedModel | Callable[..., Scores] | Callable[..., Awaitable[Scores]]
Rewards: TypeAlias = Reward | Sequence[Reward]
SomeDataset: TypeAlias = Dataset | IterableDataset
EvalDataset: TypeAlias = SomeDataset | DatasetDict | IterableDatasetDict | Mapping[str, SomeDataset]
Processing: TypeAlias = PreTrainedTokenizerBase | ProcessorMixin
RewardProcessing: TypeAlias = PreTrainedTokenizerBase | list[PreTrainedTokenizerBase]
Optimizers: TypeAlias = tuple[Optimizer | None, LambdaLR | None]
