"""Choose, roll out, tell, decide, train: verl's own asynchronous buffer on a real TransferQueue.

Only the agent loops are made up: they keep the prompts they are handed until a test lets them
finish, in any order, with rollouts of known success. The trainer's workers are never started.
"""

import os

os.environ.setdefault("TQ_LOGGING_LEVEL", "ERROR")

import numpy as np
import pytest
import transfer_queue
from agent_loops import Pool, plain_prompts, put_rollouts, real_store
from omegaconf import OmegaConf

from dopr import UserError
from dopr.core.advantages import compute_advantages
from dopr.core.moves import Moves
from dopr.engines.adapter import EngineSettings, make_engine_driver
from dopr.engines.chooser import Chooser
from dopr.engines.trl.checkpoints import load_state, save_state
from dopr.engines.verl import DoPRTrainerColocateAsync, StrategyBuffer

BATCH = 4  # prompts a step
POOL = 40


@pytest.fixture(scope="module")
def config():
    with real_store(
        f"data.train_batch_size={BATCH}",
        "++data.gen_batch_size=1",
        "trainer.v1.trainer_mode=colocate_async",
    ) as found:
        yield found


@pytest.fixture(autouse=True)
def empty_store(config):
    yield
    keys = list((transfer_queue.kv_list("train") or {}).get("train", {}))
    if keys:
        transfer_queue.kv_clear(keys=keys, partition_id="train")


class PatientLoops:
    """Agent loops that finish a prompt when told to, or all of them by and by (`eager`)."""

    def __init__(self, eager: bool = False) -> None:
        self.eager = eager
        self.rng = np.random.default_rng(0)
        self.under_way: dict[str, dict] = {}
        self.asked: list[tuple[int, int]] = []
        self.sizes: dict[str, int] = {}
        self.lost: set[int] = set()

    def generate_sequences(self, batch) -> None:
        for prompt in plain_prompts(batch):
            self.under_way[prompt["uid"]] = prompt
            self.sizes[prompt["uid"]] = int(prompt["__rollout_n__"])
            self.asked.append((int(prompt["index"]), self.sizes[prompt["uid"]]))
        if self.eager:
            self.finish(*self.under_way)

    def finish(self, *uids: str) -> None:
        for uid in uids:
            prompt = self.under_way.pop(uid)
            lost = [0] if int(prompt["index"]) in self.lost else []
            put_rollouts(prompt, self.rng, lost, POOL)


def make_trainer(config, strategy: str, eager: bool = False, n: int = 4, limit=8, policy="drop",
                 **options) -> DoPRTrainerColocateAsync:  # fmt: skip
    """The trainer without its workers: what `_setup` would have made, given here."""
    trainer = object.__new__(DoPRTrainerColocateAsync)
    trainer.config, trainer.trainer_mode, trainer.global_steps = config, "colocate_async", 1
    trainer._restored_tq_prompt_count, trainer.parameter_sync_step = 0, 1
    trainer.train_dataset, trainer.agent_loop_manager = Pool(POOL), PatientLoops(eager)
    trainer.driver = make_engine_driver(
        EngineSettings(strategy, options), POOL, num_generations=n, prompts_per_step=BATCH
    )
    trainer._settings = EngineSettings(poll_interval=0.01)
    sampler = {"max_off_policy_threshold": limit, "max_off_policy_strategy": policy}
    trainer.config = OmegaConf.merge(config, {"trainer": {"v1": {"sampler": sampler}}})
    trainer.replay_buffer = trainer._build_replay_buffer()
    trainer.replay_buffer.connect(Chooser(trainer.driver), trainer._roll_out, "group")
    return trainer


def sample(trainer, size: int = BATCH):
    return trainer.replay_buffer.sample(
        global_steps=trainer.global_steps, partition_id="train", batch_size=size
    )


def train_on(trainer, batch) -> None:
    transfer_queue.kv_clear(keys=batch.keys, partition_id="train")
    trainer.global_steps += 1


def in_store() -> set[str]:
    return set((transfer_queue.kv_list("train") or {}).get("train", {}))


def test_what_is_under_way_is_counted_and_not_chosen_again(config) -> None:
    trainer = make_trainer(config, "dopr", prompts_per_step=2)
    loops, driver = trainer.agent_loop_manager, trainer.driver
    trainer._add_async_warmup_batches(0.5)
    trainer.prepare_step()
    chosen = [index for index, _ in loops.asked]
    assert len(chosen) == 6 and len(set(chosen)) == 6  # half a batch beforehand, and a batch
    assert driver.ledger.in_flight == dict.fromkeys(chosen, 4)
    assert trainer.replay_buffer.get_sampleable_count(1, "train") == 0

    first, *others = list(loops.under_way)
    loops.finish(others[-1])
    assert trainer.replay_buffer.get_sampleable_count(1, "train") == 0  # its step lacks the other
    assert driver.spent.rollouts == 4 and sum(driver.ledger.in_flight.values()) == 20
    loops.finish(others[-2])
    assert trainer.replay_buffer.get_sampleable_count(1, "train") == 2
    assert len(driver.flights) == 2 and trainer.replay_buffer.existing == 6
    loops.finish(*others[:-2])
    batch, _ = sample(trainer, size=4)  # the first group is still under way
    assert first in loops.under_way and len(batch.keys) == 16
    assert set(driver.ledger.in_flight) == {chosen[0]}


def test_batches_are_trained_on_one_after_the_other_while_others_are_under_way(config) -> None:
    trainer = make_trainer(config, "dopr", prompts_per_step=2)
    loops, seen = trainer.agent_loop_manager, []
    trainer._add_async_warmup_batches(1)
    for _ in range(4):
        trainer.prepare_step()
        loops.finish(*list(loops.under_way)[:BATCH])
        batch, _ = sample(trainer)
        assert len(batch.keys) == 4 * BATCH and all("seq_len" in tag for tag in batch.tags)
        assert set(trainer.replay_buffer.taken.keys) == set(batch.keys)
        seen += batch.keys
        train_on(trainer, batch)
        assert trainer.replay_buffer.existing == BATCH
    assert len(set(seen)) == len(seen) == 16 * BATCH
    spent = trainer.driver.spent
    assert spent.rollouts == spent.kept == 16 * BATCH
    assert sum(trainer.driver.ledger.in_flight.values()) == 4 * BATCH
    assert in_store() == set(loops.under_way)


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("uniform", {}),
        ("pods", {"num_generations": 8}),
        ("reinforce-ada", {}),
        ("lilo", {"prompts_per_step": 2, "pilots": 2}),
        ("coba-rl", {}),
        ("dapo", {}),
        ("dopr", {"prompts_per_step": 11}),  # a step larger than what is ordered at a time
    ],
)
def test_rounds_unequal_groups_and_cut_ones(config, strategy: str, options: dict) -> None:
    trainer = make_trainer(config, strategy, eager=True, **options)
    kept, dropped = {}, 0
    buffer, ledger = trainer.replay_buffer, trainer.driver.ledger
    sizes = trainer.agent_loop_manager.sizes
    trainer._add_async_warmup_batches(1)
    for _ in range(3):
        trainer.prepare_step()
        batch, _ = sample(trainer)
        for outcome in buffer.outcomes:
            advantages = compute_advantages(outcome.kept, ledger, "forecast")
            for group, values in zip(outcome.kept, advantages, strict=True):
                kept[group.handle] = group, values
        dropped += sum(len(o.generated) - len(o.kept) for o in buffer.outcomes)
        buffer.outcomes.clear()
        trained = set(batch.keys)
        for group, values in kept.values():
            rollouts = [f"{job}_{i}_0" for job in group.handle for i in range(sizes[str(job)])]
            mine = [rollouts[i] for i in (range(len(values)) if group.kept is None else group.kept)]
            assert trained.issuperset(mine) or not trained.intersection(mine)
            for key, value in zip(rollouts, values, strict=True):
                own = buffer.taken.advantages.get(key)
                assert own is None or own == pytest.approx(value)
        train_on(trainer, batch)
    tell_everything(trainer)
    spent = trainer.driver.spent
    assert spent.rollouts == sum(sizes.values())
    assert spent.abandoned_steps == 0 and not ledger.in_flight
    # Nothing lies in the store but what waits.
    held = {str(number) for number in buffer.held}
    waiting = held.union(*(group.uids for group in buffer.ready.values()))
    assert {key.split("_")[0] for key in in_store()} == waiting
    if strategy in ("pods", "lilo"):
        assert len(buffer.taken.advantages) > 0
    if strategy == "dapo":
        assert dropped > 0 and all(group.informative for group, _ in kept.values())


def tell_everything(trainer) -> None:
    """Have the strategy told of all that eager loops have finished, and of what it asks then."""
    while trainer.driver.ledger.in_flight:
        trainer.replay_buffer.get_sampleable_count(trainer.global_steps, "train")


def test_a_lost_rollout_is_left_out(config) -> None:
    trainer = make_trainer(config, "uniform", eager=True)
    trainer.agent_loop_manager.lost = set(range(POOL))
    trainer.prepare_step()
    batch, _ = sample(trainer)
    assert len(batch.keys) == 3 * BATCH and trainer.driver.spent.rollouts == 4 * BATCH


def test_groups_that_are_too_old_make_room_for_others(config) -> None:
    trainer = make_trainer(config, "uniform", limit=2, prompts_per_step=1)
    loops = trainer.agent_loop_manager
    trainer.prepare_step()
    old = list(loops.under_way)
    trainer.global_steps = 4  # as if they had taken three steps
    loops.finish(*old)
    loops.eager = True
    batch, metrics = sample(trainer)
    assert metrics["training/off_policy/evicted_samples"] == BATCH
    assert not {key.split("_")[0] for key in batch.keys} & set(old)
    assert trainer.driver.spent.rollouts == 8 * BATCH  # what was too old had its say all the same
    assert in_store() == set(batch.keys)


def test_a_step_is_waited_for_where_nothing_may_be_dropped(config) -> None:
    trainer = make_trainer(config, "uniform", limit=2, policy="wait", prompts_per_step=2)
    loops, buffer = trainer.agent_loop_manager, trainer.replay_buffer
    trainer._add_async_warmup_batches(1)
    first, second, *_ = list(loops.under_way)
    loops.finish(first)
    trainer.global_steps = 2
    trainer.prepare_step()
    loops.finish(*[uid for uid in loops.under_way if uid != second])
    buffer.get_sampleable_count(2, "train")
    everything = set(buffer.ready)
    assert len(everything) == 6 and not buffer._has_enough_samples(2, "train", BATCH, everything)
    buffer.pending_keys["train"].discard(second)  # as if it were a later round's, and younger
    assert not buffer._has_enough_samples(2, "train", BATCH, everything)
    assert buffer._has_enough_samples(1, "train", BATCH, everything)
    loops.finish(second)
    batch, _ = sample(trainer)
    assert {first, second} < {key.split("_")[0] for key in batch.keys}


@pytest.mark.parametrize("strategy", ["dopr", "reinforce-ada"])
def test_a_resumed_run_goes_on_with_what_was_under_way(config, strategy: str, tmp_path) -> None:
    trainer = make_trainer(config, strategy)
    loops = trainer.agent_loop_manager
    trainer._add_async_warmup_batches(2)
    for _ in range(2):
        trainer.prepare_step()
        while trainer.replay_buffer.get_sampleable_count(trainer.global_steps, "train") < BATCH:
            loops.finish(*list(loops.under_way)[:3])
        train_on(trainer, sample(trainer)[0])
    trainer.prepare_step()
    flying = dict(trainer.driver.ledger.in_flight)
    at_save = trainer.driver.spent.rollouts
    assert flying and trainer.replay_buffer.ready.keys() | trainer.replay_buffer.held.keys()
    save_state(tmp_path, trainer._state())
    stray = {"key": "999_0_0", "partition_id": "train", "tag": {"status": "success"}}
    transfer_queue.kv_put(**stray)  # verl saves what it has trained on, too
    transfer_queue.save_checkpoint(tmp_path / "queue")
    missing, *others = list(loops.under_way)
    loops.finish(others[-1])  # what comes afterwards is lost with the process

    transfer_queue.load_checkpoint(tmp_path / "queue")
    transfer_queue.kv_clear(keys=[missing], partition_id="train")  # never to come
    resumed = make_trainer(config, strategy)
    resumed.global_steps = trainer.global_steps
    resumed._take_state(load_state(tmp_path), None)
    ours, theirs = resumed.driver, trainer.driver
    assert ours.ledger.in_flight == flying and len(ours.flights) == len(theirs.flights)
    assert resumed.replay_buffer.ready.keys() == trainer.replay_buffer.ready.keys()
    assert resumed.replay_buffer.held == trainer.replay_buffer.held
    assert "999_0_0" not in in_store() and set(others) < in_store()
    resumed._reissue_inflight_prompts()  # verl's
    again = resumed.agent_loop_manager
    assert again.under_way.keys() == set(others)
    again.eager = True
    again.finish(*again.under_way)
    for _ in range(2):
        resumed.prepare_step()
        train_on(resumed, sample(resumed)[0])
    tell_everything(resumed)
    assert ours.spent.plain_steps == 0 and ours.spent.asked_again == loops.sizes[missing]
    assert ours.spent.rollouts == at_save + sum(count for _, count in again.asked)


def test_rows_that_have_moved_begin_anew(config, tmp_path) -> None:
    trainer = make_trainer(config, "dopr", prompts_per_step=2)
    trainer._add_async_warmup_batches(1)
    trainer.agent_loop_manager.finish(next(iter(trainer.agent_loop_manager.under_way)))
    trainer.replay_buffer.get_sampleable_count(1, "train")
    save_state(tmp_path, trainer._state())
    resumed = make_trainer(config, "dopr", prompts_per_step=2)
    names = np.arange(POOL, dtype=np.uint64)
    kinds = np.zeros(POOL, dtype=np.int64)
    moves = Moves.between(names, names[::-1].copy(), (kinds, kinds))
    resumed._take_state(load_state(tmp_path), moves)
    assert not in_store() and resumed.replay_buffer.existing == 0
    assert resumed.driver.spent.rollouts == 4 and resumed.driver.spent.dropped_steps > 0
    resumed.prepare_step()
    assert len(resumed.agent_loop_manager.under_way) == BATCH


def test_the_buffer_is_verls_and_refuses_another_sampler(config) -> None:
    trainer = make_trainer(config, "uniform")
    assert isinstance(trainer.replay_buffer, StrategyBuffer)
    assert trainer.replay_buffer.max_off_policy_threshold == 8
    sampler = {"custom_sampler": {"path": "mine.py", "name": "Mine"}}
    trainer.config = OmegaConf.merge(config, {"trainer": {"v1": {"sampler": sampler}}})
    with pytest.raises(UserError, match="custom_sampler"):
        trainer._build_replay_buffer()
