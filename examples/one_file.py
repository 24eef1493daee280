"""DoPR in one file: generate, score, choose, update, evaluate. PyTorch, a model, and no trainer.

    python examples/one_file.py [--strategy uniform] [--seed 1]

Accuracy on 256 held-out sums, medians of seeds 0, 1 and 2, nothing tuned. On one thread of a
two-core AMD EPYC machine a run takes 18 to 28 s of processor time (torch 2.13.0, CPU); made by
benchmarks/one_file_curves.py, the seeds one by one in docs/results/one-file.json:

    rollouts               0    128    256    512   1024
    --strategy dopr    0.324  0.562  0.629  0.777  0.793
    --strategy uniform 0.324  0.516  0.617  0.711  0.785

`dopr` gives the strategy (which prompts?), the driver that runs it and keeps the ledger (what is
known?) and the advantages (what is learned?); the rest is here. For a task and a model of your own
change `make_problems`, `score` and `load`.
"""

import argparse
import random
import re
from importlib import resources
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dopr import Group, Measure, PromptStream, Request, make_strategy
from dopr.core.advantages import compute_advantages
from dopr.core.driver import Driver

Problem = tuple[str, str]  # a prompt, and the answer that the verifier expects
Rollout = tuple[list[int], list[int]]  # token ids of the prompt and of its completion

# (how many, fewest and most terms, digits of a term): solved at the start, nearly, within reach,
# and far beyond it. About half of the groups carry a signal.
POOL = [(80, 1, 1, 3), (40, 2, 2, 1), (234, 3, 6, 1), (158, 5, 6, 4)]
HELD_OUT = [(256, 4, 6, 1)]


def make_problems(kinds: list[tuple[int, int, int, int]], seed: int) -> list[Problem]:
    """Sums and differences, no two alike, in the words that the shipped model knows."""
    rng, problems = random.Random(seed), {}
    for count, fewest, most, digits in kinds:
        wanted = len(problems) + count
        while len(problems) < wanted:
            low, high = (10 ** (digits - 1) if digits > 1 else 0), 10**digits - 1
            terms = [rng.randint(low, high) for _ in range(rng.randint(fewest, most))]
            signs = [1] + [rng.choice([1, -1]) for _ in terms[1:]]
            pairs = list(zip(signs, terms, strict=True))
            text = str(terms[0]) + "".join(f" {'+' if s > 0 else '-'} {t}" for s, t in pairs[1:])
            prompt = f"State the final answer to the following arithmetic problem: {text} ="
            problems[prompt] = str(sum(sign * term for sign, term in pairs))
    return list(problems.items())


def score(completion: str, answer: str) -> float:
    """The verifier: 1 where the tag holds the answer, else 0."""
    found = re.search(r"<answer>(.*?)</answer>", completion)
    return float(found is not None and found[1].strip() == answer)


def load() -> tuple[Any, Any]:
    """The model and the tokenizer that come with the package."""
    folder = str(resources.files("dopr") / "assets" / "tiny-reasoner")
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def generate(model: Any, tokenizer: Any, prompts: list[str]) -> list[Rollout]:
    """One completion of each prompt, up to and with the end mark, at temperature 1."""
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    asked = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    width = max(map(len, asked))
    output = model.generate(
        input_ids=torch.tensor([[pad] * (width - len(ids)) + ids for ids in asked]),
        attention_mask=torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in asked]),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=64,
        pad_token_id=pad,
    )
    told = [ids[: ids.index(end) + 1] if end in ids else ids for ids in output[:, width:].tolist()]
    return list(zip(asked, told, strict=True))


def log_probabilities(model: Any, rollouts: list[Rollout]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each token given those before it, and 1 where it is a completion's; (rollouts, length)."""
    longest = max(len(prompt) + len(told) for prompt, told in rollouts)
    ids = torch.zeros(len(rollouts), longest, dtype=torch.long)
    mask = torch.zeros(len(rollouts), longest)
    for row, (prompt, told) in enumerate(rollouts):
        # Padding stands at the right, where causal attention does not see it.
        ids[row, : len(prompt) + len(told)] = torch.tensor(prompt + told)
        mask[row, len(prompt) : len(prompt) + len(told)] = 1
    logits = model(ids).logits[:, :-1]
    return torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None]).squeeze(-1), mask[:, 1:]


def update(
    model: Any, optimizer: Any, rollouts: list[Rollout], advantages: list[float], passes: int
) -> None:
    """`passes` steps on the clipped policy gradient (PPO's and GRPO's), averaged over tokens."""
    weight, old = torch.tensor(advantages)[:, None], None
    for _ in range(passes):
        new, mask = log_probabilities(model, rollouts)
        old = new.detach() if old is None else old
        ratio = torch.exp(new - old)
        gain = torch.minimum(ratio * weight, ratio.clamp(0.8, 1.2) * weight)
        optimizer.zero_grad()
        (-(gain * mask).sum() / mask.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


class Engine:
    """What a driver asks of an engine: groups for requests, and values for measures."""

    def __init__(self, model: Any, tokenizer: Any, problems: list[Problem]) -> None:
        self.model, self.tokenizer, self.problems = model, tokenizer, problems
        self.step = 0

    def reward(self, rollout: Rollout, problem: Problem) -> float:
        return score(self.tokenizer.decode(rollout[1], skip_special_tokens=True), problem[1])

    def roll_out(self, requests: list[Request]) -> list[Group]:
        """The finished groups, in the order of the requests; the handle keeps the rollouts."""
        asked = [self.problems[r.prompt_id] for r in requests for _ in range(r.num_rollouts)]
        rollouts = generate(self.model, self.tokenizer, [problem[0] for problem in asked])
        groups, start = [], 0
        for request in requests:
            rows = slice(start, start := start + request.num_rollouts)
            rewards = [self.reward(*pair) for pair in zip(rollouts[rows], asked[rows], strict=True)]
            tokens = [len(told) for _, told in rollouts[rows]]
            groups.append(
                Group(
                    request.prompt_id,
                    np.array(rewards),
                    np.array(tokens),
                    self.step,
                    handle=tuple(rollouts[rows]),
                )
            )
        return groups

    @torch.no_grad()
    def measure(self, asked: Measure) -> tuple[np.ndarray, int]:
        """Each prompt's embedding, the mean of its last hidden states, and the tokens read.

        `dopr` asks for them to learn which prompts are alike. A driver made without `can_measure`
        asks for none, and `dopr` then knows of an unseen prompt what it knows of the pool.
        """
        prompts = [self.tokenizer(self.problems[i][0])["input_ids"] for i in asked.prompt_ids]
        read = [self.model(torch.tensor([p]), output_hidden_states=True) for p in prompts]
        embeddings = [output.hidden_states[-1][0].mean(0).numpy() for output in read]
        return np.stack(embeddings), sum(map(len, prompts))

    def evaluate(self, problems: list[Problem]) -> float:
        """Share of problems solved at temperature 1, one completion each; nothing is counted."""
        rollouts = generate(self.model, self.tokenizer, [problem[0] for problem in problems])
        return float(np.mean([self.reward(*p) for p in zip(rollouts, problems, strict=True)]))


def train(
    strategy: str = "dopr",
    seed: int = 0,
    budget: int = 1024,
    learning_rate: float = 1e-4,
    held_out: list[Problem] | None = None,
    every: int = 128,
) -> list[tuple[int, float]]:
    """Train the shipped model until `budget` rollouts are spent; `every` so many is evaluated.

    Returns the curve, (rollouts, accuracy). A step is the 4 best prompts x 4 rollouts, used three
    times, with a learning rate that falls to 0 with the budget.
    """
    torch.manual_seed(seed)
    problems, held_out = make_problems(POOL, 1), held_out or make_problems(HELD_OUT, 2)
    engine = Engine(*load(), problems)
    optimizer = torch.optim.AdamW(engine.model.parameters(), lr=learning_rate, weight_decay=0.0)
    chooser = make_strategy(strategy, prompts_per_step=4, num_generations=4)
    stream = PromptStream(len(problems), seed)
    driver = Driver(chooser, stream, can_measure=frozenset({"embedding"}))
    curve: list[tuple[int, float]] = []
    while True:
        spent, ledger = driver.spent, driver.ledger
        if spent.rollouts >= len(curve) * every or spent.rollouts >= budget:
            curve.append((spent.rollouts, engine.evaluate(held_out)))
            share = spent.informative_groups / max(spent.groups, 1)
            print(f"{spent.rollouts:5} rollouts: accuracy {curve[-1][1]:.3f}, signal {share:.2f}")
        if spent.rollouts >= budget:
            return curve
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - spent.rollouts / budget)
        engine.step = ledger.step
        # The strategy chooses, the engine rolls out, the ledger learns: all in this call.
        groups = driver.step(engine.roll_out, engine.measure).kept
        rollouts, weights = [], []
        for group, advantages in zip(groups, compute_advantages(groups, ledger), strict=True):
            kept = range(group.num_rollouts) if group.kept is None else group.kept.tolist()
            rollouts += [group.handle[i] for i in kept]
            weights += [float(advantages[i]) for i in kept]
        if any(weights):  # else every group was all right or all wrong, and teaches nothing
            update(engine.model, optimizer, rollouts, weights, passes=3)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="DoPR in one file.")
    parser.add_argument("--strategy", default="dopr")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    train(options.strategy, options.seed)
