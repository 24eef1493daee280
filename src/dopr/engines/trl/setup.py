"""From a trainer's settings to the driver that runs its strategy."""

import importlib.util
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from datasets import Dataset
from numpy.typing import NDArray

from dopr.core.advantages import usual_discount
from dopr.core.driver import Driver
from dopr.core.errors import UserError
from dopr.core.preparation import Sizes, leaves_prompts_open, prepare
from dopr.core.stream import OfferedStream, PromptStream
from dopr.engines.prompt_pool import prompt_categories
from dopr.engines.trl.selection import Selection
from dopr.policy.answers import is_answer
from dopr.policy.measuring import QUANTITIES
from dopr.strategies import Strategy, make_strategy

ROW = "dopr_row"  # column with a prompt's row, where the loader's order is used
_ROWS_LOOKED_AT = 256


def check_engine(use_vllm: bool) -> None:
    """Refuse vLLM where there is none, before weights are loaded.

    Args:
        use_vllm: TRL's setting.

    Raises:
        UserError: vLLM is asked for and not installed.
    """
    if use_vllm and importlib.util.find_spec("vllm") is None:
        raise UserError(
            "use_vllm is set but vLLM is not installed; install dopr with its extra `vllm`, or set "
            "use_vllm to false to generate with transformers"
        )


def check_saving(accelerator: Accelerator) -> None:
    """Refuse DeepSpeed's ZeRO-3 where it would end a run without a model that can be loaded.

    Raises:
        UserError: the parameters are spread over processes and not gathered when saved.
    """
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return
    config = accelerator.state.deepspeed_plugin.hf_ds_config
    gathered = config.get_value("zero_optimization.stage3_gather_16bit_weights_on_model_save")
    if config.is_zero3() and not gathered:
        raise UserError(
            "with ZeRO-3 the trained model is saved only if "
            "zero_optimization.stage3_gather_16bit_weights_on_model_save is true in DeepSpeed's "
            "settings (zero3_save_16bit_model in accelerate's); set it"
        )


def check_pool(pool: Any) -> None:
    """Refuse a dataset without prompts, before weights are loaded; TRL refuses what is none at all.

    Args:
        pool: the training prompts.

    Raises:
        UserError: it has no rows.
    """
    if isinstance(pool, Dataset) and len(pool) == 0:
        raise UserError("train_dataset is empty; give at least one prompt")


def loader_rows(pool: Dataset, stream: PromptStream, args: Any) -> Dataset:
    """What TRL's loader goes through: the pool, repeated where it does not fill a batch.

    Of a pool smaller than a batch TRL's sampler makes no batch at all, and training would end at
    once.

    Args:
        pool: the training prompts.
        stream: of the driver; one that goes by the loader's order needs the rows' numbers.
        args: TRL's settings, read for group size and batch.
    """
    rows = _numbered(pool) if isinstance(stream, OfferedStream) else pool
    wanted = args.generation_batch_size // args.num_generations
    if len(rows) < wanted:
        rows = rows.select(np.resize(np.arange(len(rows)), wanted))
    return rows


def _numbered(rows: Dataset) -> Dataset:
    """The rows with their numbers in a column that a format or a transform does not hide."""
    told = rows.format
    if ROW in rows.column_names:
        rows = rows.remove_columns(ROW)
    rows = rows.with_format(None).add_column(ROW, list(range(len(rows))))
    shown = [*(name for name in told["columns"] if name != ROW), ROW]
    if told["type"] != "custom":
        return rows.with_format(told["type"], columns=shown, **told["format_kwargs"])
    transform = told["format_kwargs"]["transform"]

    def numbering(batch: dict[str, list[Any]]) -> dict[str, Any]:
        own = {name: values for name, values in batch.items() if name != ROW}
        return {**transform(own), ROW: batch[ROW]}

    return rows.with_transform(numbering, columns=shown)


def take_row_numbers(batch: Any) -> list[int]:
    """Take the column of row numbers out of a batch of `loader_rows`: it is nobody else's business.

    Args:
        batch: this process's rows, changed in place.
    """
    return [row.pop(ROW) for row in batch if isinstance(row, dict) and ROW in row]


def loader_order(numbers: list[int], num_generations: int) -> NDArray[np.int64]:
    """The prompts of the loader's batch over all processes, each once, as row numbers; shape (k,).

    Args:
        numbers: of this process's rows, each prompt `num_generations` times.
        num_generations: rollouts of a prompt.
    """
    return np.asarray(gather_object(numbers)[::num_generations], dtype=np.int64)


def prompt_stream(pool: Dataset, args: Any, window: int = 0) -> PromptStream:
    """The order in which the prompts of a pool are offered.

    Args:
        pool: the training prompts.
        args: TRL's settings, read for seed and shuffling.
        window: how many pools there were before in this run.
    """
    stream = PromptStream(len(pool), args.seed + window, shuffle=bool(args.shuffle_dataset))
    stream.categories = prompt_categories(pool)
    return stream


def offered_stream(pool: Dataset, args: Any) -> OfferedStream:
    """The order of TRL's own loader, which offers each batch.

    Args:
        pool: the training prompts.
        args: TRL's settings, read for the seed.
    """
    stream = OfferedStream(len(pool), args.seed)
    stream.categories = prompt_categories(pool)
    return stream


def measurable(
    pool: Dataset,
    reward_funcs: Sequence[Any],
    tools: Sequence[Any],
    pictures: bool,
    answer_column: str = "answer",
) -> frozenset[str]:
    """What the policy can tell of a prompt without paid rollouts.

    Nothing where text alone does not tell prompts apart: rows that only name an environment, and
    pictures. No success rates where rollouts need tools, or rewards are models or asynchronous. How
    likely reference answers are, where rows have any that can stand as a completion.

    Args:
        pool: the training prompts.
        reward_funcs, tools: of the trainer.
        pictures: the policy reads pictures too.
        answer_column: of the settings, see `MethodSettings`.
    """
    if pictures or "prompt" not in pool.column_names:
        return frozenset()
    plain = all(
        not isinstance(reward, torch.nn.Module) and not inspect.iscoroutinefunction(reward)
        for reward in reward_funcs
    )
    told = QUANTITIES if plain and not tools else QUANTITIES - {"success_rate"}
    return told if _has_answers(pool, answer_column) else told - {"answer_likelihood"}


def _has_answers(pool: Dataset, column: str) -> bool:
    """Whether rows from all over the pool have a reference answer: a text or a number."""
    if column not in pool.column_names:
        return False
    spaced = np.linspace(0, len(pool) - 1, min(len(pool), _ROWS_LOOKED_AT)).astype(int)
    return any(map(is_answer, pool.select(spaced.tolist())[column]))


def check_answers(
    strategy: Strategy, can_measure: frozenset[str], pool: Dataset, column: str
) -> None:
    """Say what is missing where a strategy is to read reference answers that no row has.

    Raises:
        UserError: see above.
    """
    if "answer_likelihood" in strategy.measures - can_measure and "prompt" in pool.column_names:
        raise UserError(
            "reference answers are to be read, and no row looked at has a text or a number in the "
            f"column {column!r}; add the column, name another one (`answer_column`), or leave the "
            "strategy's option `answers` out"
        )


def make_driver(
    strategy: Strategy | str | None,
    settings: Selection,
    pool: Dataset,
    args: Any,
    *,
    can_measure: frozenset[str] = QUANTITIES,
    from_stream: bool = False,
) -> Driver:
    """The driver of a training run.

    Args:
        strategy: an object, a name, or None for what the settings name.
        settings: how prompts are chosen.
        pool: the training prompts.
        args: TRL's settings, read for seed, group size and batch.
        can_measure: what the policy can tell of a prompt, see `measurable`.
        from_stream: the pool is a window of a streaming dataset, whose order no loader knows.

    Raises:
        UserError: unknown strategy or option.
    """
    if not isinstance(strategy, Strategy):
        if not isinstance(strategy, str | None):
            raise UserError(
                f"strategy is {strategy!r}; give a name, or an object of a strategy's class"
            )
        options = settings.strategy_args
        if not isinstance(options, dict | None):
            raise UserError(f"strategy_args must be a mapping of options, not {options!r}")
        options = {"num_generations": args.num_generations} | (options or {})
        strategy = make_strategy(strategy or settings.strategy, **options)
    check_answers(strategy, can_measure, pool, settings.answer_column)
    stream = prompt_stream(pool, args)
    if not from_stream and strategy.fills_batch and leaves_prompts_open(strategy):
        # Without options uniform choice is plain GRPO: the trainer's batch and its order.
        stream = offered_stream(pool, args)
    room = max(1, args.generation_batch_size // args.num_generations)
    discount = settings.ledger_discount
    if discount is None:
        discount = usual_discount(strategy, settings.advantage_estimator)
    return Driver(
        prepare(strategy, Sizes(args.num_generations, room)),
        stream,
        max_rounds=settings.max_rounds,
        can_measure=can_measure,
        discount=discount,
        feedback_delay=0 if isinstance(stream, OfferedStream) else settings.feedback_delay,
        withhold_in_flight=settings.withhold_in_flight,
    )
