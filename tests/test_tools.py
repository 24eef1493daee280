"""Tools and environments: several turns a rollout, and only the policy's own words are its own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from agents import make_agent, speaking, tool_call
from dopr import DoPRTrainer
from dopr.core.errors import UserError
from dopr.core.strategy import Request, Strategy
from dopr.policy.final_answers import final_answers
from dopr.rewards.extract import completion_text
from tiny import settings, untouched

DOUBLE = tool_call("double", number=7)
DONE = "<|im_end|>"


def double(number: int) -> str:
    """
    Doubles a number.

    Args:
        number: What to double.

    Returns:
        Twice the number.
    """
    return f"twice is {2 * number} " + "and so on " * (number % 3)


class Counter:
    """Counts up to what its row says, one step a call."""

    def reset(self, goal: int = 2, **row: Any) -> str:
        self.count, self.goal = 0, goal
        return f" Count to {goal}."

    def increment(self, by: int) -> str:
        """
        Counts on.

        Args:
            by: How far.

        Returns:
            Where the count stands.
        """
        self.count += by
        return f"The count is {self.count}."

    def get_reward(self) -> float:
        return float(self.count == self.goal)


class Recording(DoPRTrainer):
    """Keeps every micro-batch that goes into the loss."""

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        if not hasattr(self, "seen"):
            self.seen: list[dict[str, Any]] = []
        self.seen.append(inputs)
        return super()._compute_loss(model, inputs)


class UnequalGroups(Strategy):
    """Two rounds: a group of three and one of two, then three more of the second prompt."""

    name, summary, source, mark = "unequal", "unequal groups", "test", "I"

    def step(self, prompts: Any, ledger: Any) -> Any:
        first, second = (int(i) for i in prompts.draw(2))
        groups = yield [Request(first, 3), Request(second, 2)]
        more = yield [Request(second, 3)]
        return [*groups, *more]


def questions(rows: int = 6) -> Dataset:
    chats = [[{"role": "user", "content": f"Double {i}, please."}] for i in range(rows)]
    return Dataset.from_dict({"prompt": chats})


def words_reward(completions: list[Any], **columns: Any) -> list[float]:
    """Tells the rollouts of a group apart by how often they called."""
    return [float(len(completion)) for completion in completions]


def make_trainer(folder: Path, cls: Any = Recording, **given: Any) -> Any:
    model, tokenizer = make_agent()
    kwargs = {key: given.pop(key) for key in list(given) if key in KEYWORDS}
    kwargs = {"reward_funcs": words_reward, "train_dataset": questions()} | kwargs
    changes = {"max_completion_length": 256, "max_steps": 2} | given
    args = GRPOConfig(**settings(folder, **changes))
    return cls(model, args=args, processing_class=tokenizer, **kwargs)


KEYWORDS = ("reward_funcs", "train_dataset", "tools", "environment_factory", "strategy")


def by_turns(chat: str, rollout: int) -> str:
    """Every other rollout calls once or twice before it answers."""
    answered = chat.rsplit("please.", 1)[1].count("<tool_response>")
    wanted = rollout % 3 if not answered else 2 * (rollout % 2)
    return DOUBLE if answered < wanted else "It is done."


def own_text(inputs: dict[str, Any], row: int, tokenizer: Any) -> tuple[str, str]:
    """What a rollout's policy said and what it was told, by the mask that the loss goes by."""
    ids, counts = inputs["completion_ids"][row], inputs["completion_mask"][row].bool()
    own = inputs["tool_mask"][row].bool()
    return tokenizer.decode(ids[counts & own]), tokenizer.decode(ids[counts & ~own])


@pytest.mark.parametrize("strategy", ["dopr", "uniform", "dapo", "ar3po", UnequalGroups()])
def test_masks_tell_the_policys_words_from_the_tools_in_every_micro_batch(
    tmp_path: Path, strategy: Any
) -> None:
    changes = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    trainer = make_trainer(tmp_path, tools=[double], strategy=strategy, **changes)
    with speaking(trainer, by_turns):
        trainer.train()
    told_something = 0
    for inputs in trainer.seen:
        if "dopr_skip" in inputs:
            continue
        for row in range(len(inputs["completion_ids"])):
            own, told = own_text(inputs, row, trainer.processing_class)
            assert own.replace(DOUBLE, "").replace("It is done.", "").replace(DONE, "") == ""
            assert "twice is 14" in told or not told
            told_something += bool(told)
    assert told_something


@pytest.mark.parametrize("strategy", ["dopr", "ar3po", UnequalGroups()])
def test_tools_train_with_trl_defaults(tmp_path: Path, strategy: Any) -> None:
    trainer = make_trainer(tmp_path, tools=[double], strategy=strategy, **untouched())
    assert trainer.args.bf16 and trainer.args.gradient_checkpointing
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    with speaking(trainer, by_turns):
        trainer.train()
    after = list(trainer.model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.isfinite(parameter).all() for parameter in after)


def test_only_the_policys_own_tokens_count_as_generated(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, tools=[double], strategy="dopr", max_steps=1)
    with speaking(trainer, lambda chat, rollout: by_turns(chat, 1 if "twice" not in chat else 0)):
        trainer.train()
    tokenizer = trainer.processing_class
    turns = [DOUBLE + DONE, "It is done." + DONE]
    own = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in turns)
    assert trainer.driver.spent.generated_tokens == own * trainer.driver.spent.rollouts


def test_truncated_rollouts_that_are_masked_were_generated_all_the_same(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path,
        tools=[double],
        max_completion_length=4,
        max_steps=1,
        mask_truncated_completions=True,
    )
    with patched_length(trainer, 4):
        trainer.train()
    assert trainer.driver.spent.generated_tokens == 4 * trainer.driver.spent.rollouts


def patched_length(trainer: Any, length: int) -> Any:
    """The policy speaks `length` letters and no end mark."""
    from unittest.mock import patch

    letter = trainer.processing_class.convert_tokens_to_ids("a")

    def generate(input_ids: torch.Tensor, **others: Any) -> torch.Tensor:
        return torch.cat([input_ids, input_ids.new_full((len(input_ids), length), letter)], dim=1)

    return patch.object(trainer.model, "generate", side_effect=generate)


@pytest.mark.parametrize("precision", [{}, untouched()], ids=["float32", "trl defaults"])
def test_uniform_with_tools_equals_plain_grpo(tmp_path: Path, precision: dict[str, Any]) -> None:
    trained = []
    for name, cls, more in (
        ("plain", GRPOTrainer, {}),
        ("ours", DoPRTrainer, {"strategy": "uniform"}),
    ):
        trainer = make_trainer(tmp_path / name, cls, tools=[double], **more, **precision)
        with speaking(trainer, by_turns):
            trainer.train()
        trained.append(list(trainer.model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*trained, strict=True))
    start, _ = make_agent()
    assert any(not torch.equal(a, b) for a, b in zip(start.parameters(), trained[1], strict=True))


def count_up(chat: str, rollout: int) -> str:
    """Two rollouts of three count to the goal, the third says at once that it is done."""
    task = chat.rsplit("Count to ", 1)[1]
    goal, calls = int(task.split(".")[0]), task.count("<tool_response>")
    if calls < goal and rollout % 3:
        return tool_call("increment", by=1)
    return "Done."


@pytest.mark.parametrize("strategy", ["dopr", "uniform"])
def test_each_rollout_has_an_environment_of_its_own_and_one_reward(
    tmp_path: Path, strategy: str
) -> None:
    chats = [[{"role": "user", "content": "Begin."}]] * 6
    rows = Dataset.from_dict({"prompt": chats, "goal": [1, 2, 3, 1, 2, 3]})
    trainer = make_trainer(
        tmp_path,
        reward_funcs=None,
        train_dataset=rows,
        environment_factory=Counter,
        strategy=strategy,
        max_steps=3,
    )
    with speaking(trainer, count_up):
        trainer.train()
    driver = trainer.driver
    assert driver.spent.rollouts == 3 * 8
    rewards = set(driver.ledger.mean[driver.ledger.visits > 0].tolist())
    assert rewards and all(0 <= mean <= 1 for mean in rewards) and rewards != {0.0}


@pytest.mark.parametrize("strategy", ["dopr", "uniform"])
def test_environment_that_owns_its_data_needs_no_dataset(tmp_path: Path, strategy: str) -> None:
    trainer = make_trainer(
        tmp_path,
        reward_funcs=None,
        train_dataset=None,
        environment_factory=Counter,
        strategy=strategy,
    )
    with speaking(trainer, count_up):
        trainer.train()
    assert trainer.driver.spent.rollouts == 2 * 8
    # There is no prompt to read before the environment speaks.
    assert trainer.driver.spent.measured_tokens == 0


@pytest.mark.parametrize("strategy", ["dopr", "uniform"])
def test_rows_may_only_name_an_environment(tmp_path: Path, strategy: str) -> None:
    rows = Dataset.from_dict({"environment": ["small", "large"] * 4, "goal": [1, 2] * 4})
    trainer = make_trainer(
        tmp_path,
        reward_funcs=None,
        train_dataset=rows,
        environment_factory={"small": Counter, "large": Counter},
        strategy=strategy,
    )
    with speaking(trainer, count_up):
        trainer.train()
    assert trainer.driver.spent.rollouts == 2 * 8


class Vandal(Counter):
    """Writes into the row it is reset with."""

    def reset(self, goal: int = 2, **row: Any) -> str:
        row["notes"].append("seen")
        row["prompt"][-1]["content"] += " Again."
        self.was_clean = row["notes"] == ["seen"]
        return super().reset(goal)

    def get_reward(self) -> float:
        return float(self.was_clean)


def test_an_environment_that_writes_into_its_row_does_not_reach_other_rollouts(
    tmp_path: Path,
) -> None:
    chats = [[{"role": "user", "content": "Begin."}]] * 4
    rows = Dataset.from_list([{"prompt": chat, "notes": []} for chat in chats])
    trainer = make_trainer(
        tmp_path,
        reward_funcs=None,
        train_dataset=rows,
        environment_factory=Vandal,
        strategy="dopr",
    )
    with speaking(trainer, lambda chat, rollout: "Done."):
        trainer.train()
    assert (trainer.driver.ledger.mean[trainer.driver.ledger.visits > 0] == 1.0).all()


def test_what_a_tool_said_is_never_taken_for_the_answer() -> None:
    call = {"role": "assistant", "content": "<answer>1</answer>", "tool_calls": []}
    told = {"role": "tool", "name": "double", "content": "<answer>14</answer>"}
    said = {"role": "assistant", "content": "<answer>7</answer>"}
    silent = {"role": "assistant", "content": "", "tool_calls": []}
    assert final_answers([[call, told, said], [call, told], [silent, told], [told]]) == [
        "7",
        "1",
        "",
        "",
    ]
    assert completion_text([call, told]) == "<answer>1</answer>"


async def slow_reward(completions: list[Any], **columns: Any) -> list[float]:
    return words_reward(completions)


@pytest.mark.parametrize("given", [{"tools": [double]}, {"reward_funcs": slow_reward}])
def test_free_success_rates_are_refused_where_only_trl_can_roll_out_or_score(
    tmp_path: Path, given: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match="success_rate"):
        make_trainer(tmp_path, strategy="oracle", **given)
