"""Fields of TRL's GRPOConfig that need more than a run beside plain GRPO's, and dataset columns."""

import importlib.machinery
import sys
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from datasets import Dataset

from dopr import DoPRConfig, DoPRTrainer
from tiny import digits_reward, make_dataset, make_model
from trl_pair import BOTH, made


def test_full_evaluation_in_half_precision_is_trls(tmp_path: Path) -> None:
    for name in ("bf16_full_eval", "fp16_full_eval"):
        found = []
        for cls, config in BOTH:
            folder = tmp_path / name / config.__name__
            trainer = made(cls, config, folder, {name: True}, eval_dataset=make_dataset(4))
            result = trainer.evaluate()
            found.append({k: v for k, v in result.items() if "reward" in k or "entropy" in k})
            assert next(trainer.model.parameters()).dtype != torch.float32
        assert found[0] == found[1] and found[0]


def test_code_that_comes_with_a_model_runs_only_where_trusted(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def spied(name: str, **settings: Any) -> Any:
        asked.append(settings.get("trust_remote_code"))
        return make_model()

    monkeypatch.setattr("trl.trainer.grpo_trainer.create_model_from_path", spied)
    for trusted in (False, True):
        changes = {"trust_remote_code": trusted, "strategy": "dopr"}
        made(DoPRTrainer, DoPRConfig, tmp_path, changes, model=str(tiny_model_dir))
    assert asked == [False, True]


def test_trackers_get_the_runs_name_project_and_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[dict[str, Any]] = []
    tracker = ModuleType("trackio")
    tracker.__spec__ = importlib.machinery.ModuleSpec("trackio", None)
    tracker.init = lambda **given: begun.append(given)  # type: ignore[attr-defined]
    tracker.config = MagicMock()  # type: ignore[attr-defined]
    tracker.__version__ = "99"  # type: ignore[attr-defined]
    tracker.context_vars = MagicMock()  # type: ignore[attr-defined]
    frozen: list[Any] = []
    tracker.freeze = lambda **given: frozen.append(given)  # type: ignore[attr-defined]
    logged: list[Any] = []
    tracker.log = lambda *given, **more: logged.append(given)  # type: ignore[attr-defined]
    tracker.finish = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", tracker)
    available = "transformers.integrations.integration_utils.is_trackio_available"
    monkeypatch.setattr(available, lambda: True)
    for user in ("trl.trainer.grpo_trainer", "trl.extras.profiling"):
        monkeypatch.setattr(f"{user}.trackio", tracker, raising=False)
    changes = {
        "report_to": "trackio",
        "run_name": "a run",
        "project": "a project",
        "trackio_space_id": "someone/space",
        "trackio_bucket_id": "someone/bucket",
        "trackio_static_space_id": "someone/static",
    }
    for cls, config in BOTH:
        made(cls, config, tmp_path / config.__name__, changes).train()
    assert len(begun) == 2 and begun[0] == begun[1]
    assert begun[0]["name"] == "a run" and begun[0]["project"] == "a project"
    assert begun[0]["space_id"] == "someone/space" and begun[0]["bucket_id"] == "someone/bucket"
    assert len(frozen) == 2 and frozen[0] == frozen[1]
    assert frozen[0]["new_space_id"] == "someone/static"
    assert len(logged) >= 4


class Upload(Future[None]):
    """An upload that a run may wait for, and that looks under way to whoever only asks."""

    def __init__(self) -> None:
        super().__init__()
        self.set_result(None)

    def done(self) -> bool:
        return False


class Hub:
    """What a run asks of the Hub."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.uploads: list[set[str]] = []
        self.told: list[tuple[Any, ...]] = []

        def create(repo: str, **settings: Any) -> Any:
            self.asked.append((repo, settings.get("private")))
            return type("Repository", (), {"repo_id": repo})()

        def upload(folder_path: str, **settings: Any) -> Any:
            self.uploads.append({f.name for f in Path(folder_path).iterdir()})
            told = ("repo_id", "token", "revision", "path_in_repo", "commit_message")
            self.told.append(tuple(settings.get(name) for name in told))
            # Not done before the next: that one waits its turn or comes all the same, as is asked.
            return Upload()

        api = MagicMock(create_repo=create, upload_folder=upload)
        monkeypatch.setattr("transformers.trainer.hf_api", lambda: api)
        monkeypatch.setattr("trl.trainer.grpo_trainer.create_repo", create)
        monkeypatch.setattr("trl.trainer.grpo_trainer.CommitScheduler", self.schedule)
        monkeypatch.setattr("huggingface_hub.DatasetCard.push_to_hub", lambda *_, **__: None)

    def schedule(self, **settings: Any) -> None:
        self.asked.append((settings["repo_id"], settings["folder_path"]))


def test_a_checkpoint_is_uploaded_with_our_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        "push_to_hub": True,
        "hub_model_id": "someone/model",
        "hub_private_repo": True,
        "hub_strategy": "all_checkpoints",
        "hub_always_push": True,
        "hub_token": "none",
        "hub_revision": "branch",
        "save_strategy": "steps",
        "save_steps": 1,
    }
    hubs = []
    for cls, config in BOTH:
        hubs.append(Hub(monkeypatch))
        made(cls, config, tmp_path / config.__name__, changes).train()
    plain, ours = hubs
    assert plain.asked == ours.asked and ("someone/model", True) in ours.asked
    assert plain.told == ours.told
    assert ours.told[-1][:4] == ("someone/model", "none", "branch", "checkpoint-2")
    checkpoints = [files for files in ours.uploads if "trainer_state.json" in files]
    assert len(checkpoints) == 2
    assert all({"dopr_state.json", "dopr_manifest.json"} <= files for files in checkpoints)


def test_tables_of_completions_go_to_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(monkeypatch)
    changes = {"log_completions": True, "log_completions_hub_repo": "someone/tables"}
    made(DoPRTrainer, DoPRConfig, tmp_path, changes).train()
    assert hub.asked[-1] == ("someone/tables", f"{tmp_path}/completions")
    assert len(list(tmp_path.glob("completions/*.parquet"))) == 2


def test_files_go_into_the_output_folder(tmp_path: Path) -> None:
    changes = {"save_strategy": "steps", "save_steps": 2, "strategy": "dopr"}
    made(DoPRTrainer, DoPRConfig, tmp_path / "here", changes).train()
    assert {f.name for f in (tmp_path / "here").iterdir()} >= {"checkpoint-2", "metrics.jsonl"}
    assert [f.name for f in tmp_path.iterdir()] == ["here"]


# -- rows and columns ------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["uniform", "dopr"])
def test_no_column_of_ours_is_seen_by_rewards_or_methods_of_the_users(
    tmp_path: Path, strategy: str
) -> None:
    seen: set[str] = set()

    def reward(completions: list[Any], **columns: Any) -> list[float]:
        seen.update(columns)
        return digits_reward(completions)

    class Own(DoPRTrainer):
        def training_step(self, model: Any, inputs: Any, *more: Any) -> Any:
            self.note(inputs)
            return super().training_step(model, inputs, *more)

        def _prepare_inputs(self, generation_batch: Any) -> Any:
            self.note(generation_batch)
            return super()._prepare_inputs(generation_batch)

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            self.note(inputs)
            return super()._generate_and_score_completions(inputs)

        def _calculate_rewards(self, inputs: Any, *more: Any) -> Any:
            self.note(inputs)
            return super()._calculate_rewards(inputs, *more)

        def note(self, rows: Any) -> None:
            seen.update(*rows)

    changes = {"strategy": strategy, "per_device_train_batch_size": 4}
    changes |= {"gradient_accumulation_steps": 2}
    trainer = made(Own, DoPRConfig, tmp_path, changes, reward_funcs=reward)
    trainer.train()
    assert {"prompt", "answer"} <= seen
    assert seen <= {"prompt", "answer", "trainer_state", "log_extra", "log_metric"} | seen_by_trl()
    assert trainer.train_dataset.column_names == ["prompt", "answer"]


def seen_by_trl() -> set[str]:
    return {"prompts", "completions", "completion_ids"}


def test_columns_that_trl_drops_are_dropped_for_every_strategy(tmp_path: Path) -> None:
    seen: set[str] = set()

    def reward(completions: list[Any], **columns: Any) -> list[float]:
        seen.update(columns)
        return digits_reward(completions)

    changes = {"strategy": "dopr", "remove_unused_columns": True}
    trainer = made(DoPRTrainer, DoPRConfig, tmp_path, changes, reward_funcs=reward)
    trainer.train()
    assert "prompts" in seen and "answer" not in seen
    assert len(set(trainer.prompt_names)) == len(make_dataset())


def test_strategies_draw_in_the_rows_order_where_shuffling_is_off(tmp_path: Path) -> None:
    changes = {
        "strategy": "uniform",
        "strategy_args": {"prompts_per_step": 2},
        "shuffle_dataset": False,
        "max_steps": 4,
    }
    trainer = made(DoPRTrainer, DoPRConfig, tmp_path, changes)
    trainer.train()
    assert trainer.driver.ledger.visits.nonzero()[0].tolist() == list(range(8))


def test_rows_without_a_prompt_are_told_apart_by_what_they_hold() -> None:
    from dopr.engines.prompt_pool import prompt_names

    names = prompt_names(Dataset.from_list([{"level": 1}, {"level": 2}, {"level": 1}]))
    assert names[0] == names[2] != names[1]
