"""A game of several turns: find a hidden number by guesses that are answered `higher` or `lower`.

    python examples/number_hunt.py --model Qwen/Qwen3-0.6B --output_dir runs/hunt

The environment owns the game and its reward; the dataset says which games there are. Seven numbers
are always found with three guesses, more only by luck, so the pool holds easy, fitting and nearly
hopeless games, and DoPR has something to choose. For a try on a CPU, examples/tiny_agent.py makes a
small model that has seen such games.
"""

import argparse
import random

import torch
from datasets import Dataset

from dopr import DoPRConfig, DoPRTrainer

GUESSES = 3
TASK = "Find the hidden number by guessing."


class Hunt:
    """One game at a time; TRL makes an object for each rollout and resets it with its row."""

    def reset(self, largest: int, secret: int, **row) -> str:
        self.secret, self.found = secret, False
        return f" It lies between 1 and {largest}."  # joined to the prompt

    def guess(self, number: int) -> str:
        """
        Guesses the hidden number.

        Args:
            number: The guess.

        Returns:
            Whether the hidden number is higher or lower, or the guess is right.
        """
        if number == self.secret:
            self.found = True
        return "right" if self.found else "higher" if number < self.secret else "lower"

    def get_reward(self) -> float:
        return float(self.found)


def games(count: int, seed: int = 0) -> Dataset:
    """Games of 2 to 31 numbers."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        largest = draw.randint(2, 31)
        prompt = [{"role": "user", "content": TASK}]
        rows.append({"prompt": prompt, "largest": largest, "secret": draw.randint(1, largest)})
    return Dataset.from_list(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="Qwen/Qwen3-0.6B")
    parser.add_argument("--output_dir", default="runs/hunt")
    parser.add_argument("--strategy", default="dopr")
    parser.add_argument("--max_steps", type=int, default=100)
    parser.add_argument("--learning_rate", type=float, default=1e-5)
    parser.add_argument("--rollouts", type=int, default=32, help="most that a step makes")
    options = parser.parse_args()
    trainer = DoPRTrainer(
        model=options.model,
        args=DoPRConfig(
            output_dir=options.output_dir,
            strategy=options.strategy,
            max_steps=options.max_steps,
            learning_rate=options.learning_rate,
            per_device_train_batch_size=options.rollouts,
            num_generations=8,
            max_completion_length=256,
            max_tool_calling_iterations=GUESSES,
            chat_template_kwargs={"enable_thinking": False},
            logging_steps=1,
            use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=games(256),
        environment_factory=Hunt,
    )
    trainer.train()
    trainer.save_model(f"{options.output_dir}/final")


if __name__ == "__main__":
    main()
