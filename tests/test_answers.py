"""How likely the policy finds reference answers: read, forecast by, and chosen by."""

from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers import normalizers
from transformers import AutoModelForCausalLM, BloomConfig, GPT2Config, LlamaConfig, Qwen3Config

from dopr import DoPRConfig, DoPRTrainer
from dopr.core.driver import Driver
from dopr.core.errors import UserError
from dopr.core.ledger import Ledger
from dopr.core.strategy import Measure
from dopr.core.stream import PromptStream
from dopr.engines.trl.setup import measurable
from dopr.policy.answers import LONGEST, _families, _fitting, read_answers
from dopr.policy.measuring import measure
from dopr.policy.sampling import Sampling
from dopr.strategies import DoPR, Group, Request
from dopr.strategies.parts.answers import ANSWER_WORTH
from dopr.strategies.parts.shared_rates import ANSWER_STARTS, MEMORIES, STARTS
from pools import bernoulli_pool, group
from tiny import make_dataset, make_model, make_tokenizer

_SMALL = {"vocab_size": 64, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
FAMILIES = {
    "llama": LlamaConfig(**_SMALL, num_hidden_layers=2, num_key_value_heads=2),
    "qwen3": Qwen3Config(**_SMALL, num_hidden_layers=2, num_key_value_heads=2, head_dim=8),
    "gpt2": GPT2Config(vocab_size=64, n_embd=16, n_head=2, n_layer=2),
    # Knows no places of tokens.
    "bloom": BloomConfig(vocab_size=64, hidden_size=16, n_head=2, n_layer=2),
}
SHOWN = "4 + 9 = 13\n27 - 15 = 12\n"  # what the prompts begin with alike
PROMPTS = [f"{SHOWN}{a} + {b} =" for a, b in zip(range(3, 15), range(40, 28, -1), strict=True)]


def one_by_one(model: Any, texts: list[str], ends: list[str]) -> np.ndarray:
    """The definition: each prompt with its answer by itself."""
    tokenizer, found = make_tokenizer(), []
    for text, end in zip(texts, ends, strict=True):
        head, tail = tokenizer(text)["input_ids"], tokenizer(end)["input_ids"]
        with torch.no_grad():
            logps = model(input_ids=torch.tensor([head + tail])).logits[0].float().log_softmax(-1)
        found.append(sum(logps[len(head) - 1 + i, token].item() for i, token in enumerate(tail)))
    return np.array(found)


@pytest.mark.parametrize("size", [1, 5, 64])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_likelihood_is_that_of_the_answer_after_the_prompt(family: str, size: int) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family]).train()
    prompts = [*PROMPTS, "2=", "what is 3 more than 11? "]
    answers: list[Any] = [*range(43, 31, -1), "2", 14.5]
    found, tokens = read_answers(model, make_tokenizer(), prompts, answers, size)
    assert model.training
    model.eval()
    # A text that ends in white space is gone on with as it is.
    ends = [*(f" {a}" for a in answers[:-1]), "14.5"]
    np.testing.assert_allclose(found, one_by_one(model, prompts, ends), rtol=1e-4, atol=1e-4)
    apart = sum(map(len, prompts)) + sum(map(len, ends))
    if family in ("gpt2", "bloom") or size == 1:
        assert tokens == apart
    else:  # what the sums begin with was read once a batch
        assert tokens < apart - (8 if size == 64 else 4) * (len(SHOWN) - 1)


def test_few_prompts_of_several_kinds_share_what_each_kind_begins_with() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES["llama"]).eval()
    kinds = ["1 + 2 = 3\n", "4 times 5 = 20\n", "3 less 1 is 2\nand 5 less 2 is 3\n"]
    prompts = [f"{kind}{n}{n} =" for n in range(2, 4) for kind in kinds] + ["7 ="]
    found, tokens = read_answers(model, make_tokenizer(), prompts, ["1"] * 7, 64)
    np.testing.assert_allclose(found, one_by_one(model, prompts, [" 1"] * 7), rtol=1e-4, atol=1e-4)
    assert tokens == sum(map(len, kinds)) + 6 * len("22 = 1") + len("7 = 1")


def test_what_is_shared_leaves_fewest_tokens_to_read() -> None:
    head = list(range(8))
    rows = [(0, [*head, 90], [1])] + [(i, [*head, *range(20, 30), i], [1]) for i in range(3)]
    # All four by eight tokens save 24, the last three by eighteen 36.
    assert [(len(family), shared) for family, shared in _families(rows)] == [(1, 0), (3, 18)]
    # With one that is alike but for two tokens more, all by eighteen is less than three by twenty.
    close = [(0, [*head, *range(20, 30), 91, 92], [1])] + [
        (i, [*head, *range(20, 30), 50, 51, i], [1]) for i in range(3)
    ]
    assert [(len(family), shared) for family, shared in _families(close)] == [(4, 18)]
    assert [shared for _, shared in _families([(0, head, [1])] * 2)] == [0, 0]


def test_only_a_text_or_a_number_is_an_answer() -> None:
    answers = [3, "", None, ["3"], True, float("nan"), "7"]
    prompts = ["1+2="] * 6 + ["3+4="]
    found, _ = read_answers(make_model(), make_tokenizer(), prompts, answers, 8)
    assert np.isfinite(found).tolist() == [True, False, False, False, False, False, True]
    assert read_answers(make_model(), make_tokenizer(), ["1="], [None], 8)[1] == 0
    # A column with gaps holds whole numbers as 3.0.
    gaps, whole = (
        read_answers(make_model(), make_tokenizer(), ["1+2="], [answer], 8)[0]
        for answer in (3.0, "3")
    )
    assert gaps == whole


def test_a_likelihood_is_at_the_temperature_of_the_rollouts() -> None:
    model = make_model().eval()
    found, _ = read_answers(model, make_tokenizer(), ["1+2="], ["3"], 8, temperature=0.5)
    ids = torch.tensor([make_tokenizer()("1+2= 3")["input_ids"]])
    with torch.no_grad():
        logps = (model(input_ids=ids).logits[0] / 0.5).log_softmax(-1)
    expected = sum(logps[place - 1, ids[0, place]].item() for place in (4, 5))
    assert found[0] == pytest.approx(expected, rel=1e-4)


def test_an_answer_is_read_no_further_than_a_completion_may_go() -> None:
    config = GPT2Config(vocab_size=64, n_embd=16, n_head=2, n_layer=1, n_positions=16)
    model = AutoModelForCausalLM.from_config(config)
    pool = Dataset.from_list([{"prompt": "1+2+3+4=", "answer": "1234567890123"}])
    asked = Measure((0,), "answer_likelihood")
    found, tokens = measure(asked, model, make_tokenizer(), pool, [], [], Sampling(8))
    assert np.isfinite(found).all() and tokens == 8 + 8


def test_an_answer_has_the_tokens_that_follow_the_prompt() -> None:
    # A tokenizer that puts a mark before every text it is given.
    plain = make_tokenizer()
    marked = make_tokenizer()
    marked.backend_tokenizer.normalizer = normalizers.Prepend("?")
    model = make_model()
    found, _ = read_answers(model, marked, ["1+2="], ["3"], 8)
    expected, _ = read_answers(model, plain, ["?1+2="], ["3"], 8)
    assert found == pytest.approx(expected)


def test_a_pass_is_bounded_by_vocabulary_and_length() -> None:
    model = make_model(vocabulary=2**16)
    rows = [(0, [1] * 100, [1] * 15)]
    assert _fitting(rows, 500, model) == 2**27 // 2**16 // 16
    assert _fitting([(0, [1] * 2**14, [1])], 500, make_model()) == 2
    assert _fitting(rows, 4, model) == 4


def test_a_chat_is_answered_without_a_space_and_a_long_answer_is_cut() -> None:
    model = make_model()
    chat = [{"role": "user", "content": "1+2="}]
    found, _ = read_answers(model, make_tokenizer(), [chat], [" 3 "], 8)
    np.testing.assert_allclose(found, one_by_one(model.eval(), ["1+2="], ["3"]), rtol=1e-4)
    _, tokens = read_answers(model, make_tokenizer(), ["1+2="], ["3" * 300], 8)
    assert tokens == len("1+2=") + LONGEST


def test_the_trainer_can_be_asked_where_rows_have_answers() -> None:
    pool = make_dataset(6)
    told = measurable(pool, [len], [], False)
    assert "answer_likelihood" in told
    wanted = Measure((4, 1), "answer_likelihood")
    found, tokens = measure(wanted, make_model(), make_tokenizer(), pool, [], [], Sampling())
    texts = [pool[i]["prompt"] for i in (4, 1)]
    ends = [f" {pool[i]['answer']}" for i in (4, 1)]
    np.testing.assert_allclose(found, one_by_one(make_model(), texts, ends), rtol=1e-4)
    assert tokens > 0
    assert "answer_likelihood" not in measurable(pool.remove_columns("answer"), [len], [], False)
    late = pool.remove_columns("answer").add_column("answer", [None] * 5 + ["7"])
    assert "answer_likelihood" in measurable(late, [len], [], False)
    tests = pool.remove_columns("answer").add_column("answer", [["assert f() == 1"]] * 6)
    assert "answer_likelihood" not in measurable(tests, [len], [], False)


# -- forecasts -------------------------------------------------------------------------------------


def read(strategy: DoPR, said: np.ndarray, ledger: Ledger) -> np.ndarray | None:
    """What `read_answers` gives where the policy says this of all prompts."""
    asked = strategy.read_answers(PromptStream(len(said)), np.arange(len(said)), ledger)
    try:
        wanted = next(asked)
    except StopIteration as done:
        return None if done.value is None else np.asarray(done.value)
    assert wanted.quantity == "answer_likelihood"
    with pytest.raises(StopIteration) as end:
        asked.send(said[list(wanted.prompt_ids)])
    return np.asarray(end.value.value)


def test_a_likelihood_is_a_forecast_worth_eight_rollouts() -> None:
    strategy, ledger = DoPR(answers=True), Ledger(4)
    said = read(strategy, np.log([0.5, 0.2, 1e-9, np.nan]), ledger)
    assert said is not None
    found = strategy.forecast(np.arange(4), None, ledger, said)
    last = found.alpha.reshape(-1, len(MEMORIES), 4)[-1, 0], found.beta.reshape(-1, 4)[-1]
    assert last[0][:3] == pytest.approx([0.5 * ANSWER_WORTH, 0.2 * ANSWER_WORTH, 0.01 * 8])
    assert (last[0] + last[1])[:3] == pytest.approx([8.0] * 3)
    # Where no answer was read it is the pool's mean.
    assert last[0][3] / (last[0] + last[1])[3] == pytest.approx(0.5)
    assert len(found.alpha) == (3 + len(ANSWER_STARTS)) * len(MEMORIES)


def pool_of(truth: np.ndarray, said: np.ndarray, steps: int, **options: Any) -> Driver:
    """A driver that trained on prompts whose rates and answers' likelihoods are these."""
    strategy = DoPR(answers=True, num_generations=4, **options)
    driver = Driver(strategy, PromptStream(300, 1), can_measure=frozenset({"answer_likelihood"}))
    roll_out = bernoulli_pool(truth)
    for _ in range(steps):
        driver.step(roll_out, lambda asked: (said[list(asked.prompt_ids)], 1))
    return driver


def beliefs(driver: Driver) -> dict[str, float]:
    """What is believed of an unseen prompt, by start."""
    assert isinstance(driver.strategy, DoPR)
    weights = driver.strategy._beliefs()[0].reshape(-1, len(MEMORIES)).sum(axis=1)
    return dict(zip((*STARTS[:3], *ANSWER_STARTS), weights, strict=True))


def test_likelihoods_that_foretell_success_are_believed_and_chosen_by() -> None:
    truth = np.where(np.arange(300) % 5 == 0, 0.5, 0.01)
    driver = pool_of(truth, np.log(truth), 5)
    found = beliefs(driver)
    assert found["its answer"] == max(found.values())
    assert truth[driver.ledger.visits > 0].mean() > 0.45  # 0.108 of all


def test_likelihoods_that_are_off_are_learned_from() -> None:
    # As of a policy that reasons first: the answer by itself is never likely, but tells.
    truth = np.where(np.arange(300) % 5 == 0, 0.5, 0.01)
    driver = pool_of(truth, -12.0 + 4 * truth, 25)
    found = beliefs(driver)
    assert found["its answer"] < 0.01 < 0.3 < found["like its answer"]
    late = np.flatnonzero(driver.ledger.last_step >= 10)
    assert truth[late].mean() > 0.4


def test_likelihoods_that_mislead_are_soon_disbelieved() -> None:
    rng = np.random.default_rng(0)
    truth = np.where(rng.random(300) < 0.5, 0.5, 0.05)
    driver = pool_of(truth, np.log(rng.permutation(truth)), 40)
    found = beliefs(driver)
    assert found["its answer"] + found["like its answer"] < 0.3


def test_an_answer_is_read_again_when_it_is_old() -> None:
    strategy, ledger = DoPR(answers=True, reread=2), Ledger(3)
    strategy.can_measure = frozenset({"answer_likelihood"})
    first, second = np.log([0.1, 0.2, 0.3]), np.log([0.4, 0.5, 0.6])
    assert read(strategy, first, ledger) == pytest.approx(first)
    ledger.end_step()
    assert read(strategy, second, ledger) == pytest.approx(first)
    ledger.end_step()
    assert read(strategy, second, ledger) == pytest.approx(second)


def test_answers_that_nobody_can_read_are_refused() -> None:
    with pytest.raises(UserError, match="answer_likelihood"):
        Driver(DoPR(answers=True), PromptStream(9), can_measure=frozenset({"embedding"}))
    with pytest.raises(UserError, match="prior"):
        DoPR(answers=True, prior="pool")
    with pytest.raises(UserError, match="reread"):
        DoPR(answers=True, reread=0)
    with pytest.raises(UserError, match="answers"):
        DoPR(reread=4)
    assert DoPR().measures == frozenset()


def reader(folder: Any, pool: Dataset, **settings: Any) -> DoPRTrainer:
    """A trainer that is to read the reference answers of a pool."""
    settings |= {"bf16": False, "report_to": "none", "strategy_args": {"answers": True}}
    return DoPRTrainer(
        make_model(),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=DoPRConfig(output_dir=str(folder), **settings),
        train_dataset=pool,
        processing_class=make_tokenizer(),
    )


def test_a_pool_without_answers_is_refused_by_name(tmp_path: Any) -> None:
    with pytest.raises(UserError, match="column 'answer'"):
        reader(tmp_path, make_dataset(12).remove_columns("answer"))


def test_another_column_may_say_what_a_right_completion_is_like(tmp_path: Any) -> None:
    pool = make_dataset(12)
    worked = [f"it is {answer}" for answer in pool["answer"]]
    both = pool.add_column("solution", worked)
    made = reader(tmp_path, both, answer_column="solution")
    said, tokens = made._measure(Measure(tuple(range(12)), "answer_likelihood"))
    model, tokenizer = made.model, made.processing_class
    read, same = read_answers(model, tokenizer, list(pool["prompt"]), worked, 64)
    assert said == pytest.approx(read) and tokens == same
    bare, _ = read_answers(model, tokenizer, list(pool["prompt"]), list(pool["answer"]), 64)
    assert (said < bare).all()
    with pytest.raises(UserError, match="column 'worked'"):
        reader(tmp_path, both, answer_column="worked")


def test_the_first_answer_may_come_while_a_step_is_in_flight() -> None:
    strategy = DoPR(answers=True, num_generations=4, candidates=8)
    driver = Driver(
        strategy,
        PromptStream(64, shuffle=False),
        can_measure=frozenset({"answer_likelihood"}),
        feedback_delay=1,
    )
    said = np.where(np.arange(64) < 8, np.nan, np.log(0.5))
    roll_out = bernoulli_pool(np.full(64, 0.5))
    for _ in range(6):
        driver.step(roll_out, lambda asked: (said[list(asked.prompt_ids)], 1))
    assert strategy._answer_sums.any()


def test_a_wider_range_of_rewards_forgets_what_answers_told() -> None:
    strategy = DoPR(answers=True)
    strategy.can_measure = frozenset({"answer_likelihood"})

    def step(rewards: list[float]) -> None:
        def roll_out(requests: list[Request]) -> list[Group]:
            return [group(r.prompt_id, rewards) for r in requests]

        driver.step(roll_out, lambda asked: (np.log(np.full(len(asked.prompt_ids), 0.5)), 1))

    driver = Driver(strategy, PromptStream(4), can_measure=strategy.can_measure)
    for _ in range(6):
        step([0.0, 1.0])
    before = np.trace(strategy._answer_sums)
    step([0.0, 100.0])
    assert np.trace(strategy._answer_sums) < before / 3


def test_a_run_counts_what_it_read_and_goes_on(tmp_path: Any) -> None:
    trainer = DoPRTrainer(
        make_model(),
        reward_funcs=lambda completions, **_: [float(len(c) % 2) for c in completions],
        args=DoPRConfig(
            output_dir=str(tmp_path),
            bf16=False,
            max_steps=2,
            num_generations=2,
            per_device_train_batch_size=8,
            max_completion_length=4,
            report_to="none",
            save_strategy="no",
            strategy_args={"answers": True, "candidates": 6},
        ),
        train_dataset=make_dataset(12),
        processing_class=make_tokenizer(),
    )
    trainer.train()
    strategy = trainer.driver.strategy
    assert isinstance(strategy, DoPR)
    assert (strategy._said_at >= 0).sum() >= 6
    assert trainer.driver.spent.measured_tokens > 12 * 4
