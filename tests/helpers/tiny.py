"""A model small enough to train in a test, and a task it can score on by luck."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
)

ALPHABET = "0123456789+-*/=() abcdefghijklmnopqrstuvwxyz?.,:<>"
# Of a model with grouped heads, for the tests that try several architectures.
SHAPE = {
    "vocab_size": len(ALPHABET) + 3,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
# Settings that tests are quicker without.
_FOR_SPEED = ("bf16", "gradient_checkpointing")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character."""
    vocabulary = {"<pad>": 0, "<eos>": 1, "<unk>": 2}
    for character in ALPHABET:
        vocabulary[character] = len(vocabulary)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    fast.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    return fast


def make_model(seed: int = 0, vocabulary: int = len(ALPHABET) + 3) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=128,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
    )


def mixture_of_experts() -> MixtralForCausalLM:
    """As small, with experts of which each token takes one."""
    torch.manual_seed(0)
    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=len(ALPHABET) + 3,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            num_local_experts=4,
            num_experts_per_tok=1,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
    )


def save_tiny_model(folder: Path) -> Path:
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def digits_reward(completions: list[Any], **columns: Any) -> list[float]:
    """1 where the completion holds an odd number of digits: a coin the policy can learn to bend."""
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [float(sum(ch.isdigit() for ch in text) % 2) for text in texts]


def length_reward(completions: list[Any], **columns: Any) -> list[float]:
    """The longer, the better."""
    return [float(len(completion)) for completion in completions]


def make_dataset(rows: int = 24, chat: bool = False) -> Dataset:
    texts = [f"{i}+{i + 1}=?" for i in range(rows)]
    prompts: list[Any] = [[{"role": "user", "content": t}] for t in texts] if chat else list(texts)
    return Dataset.from_dict({"prompt": prompts, "answer": [str(2 * i + 1) for i in range(rows)]})


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """Arguments of GRPOConfig for a run of a few seconds on a CPU."""
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "max_steps": 4,
        "learning_rate": 1e-2,
        "num_generations": 4,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "max_completion_length": 8,
        "seed": 3,
    } | changes


def untouched() -> dict[str, Any]:
    """What `settings` turns off to be quick, as TRL has it where a user leaves it alone."""
    from trl import GRPOConfig  # the environment of verl has none, and takes the model from here

    return {name: GRPOConfig.__dataclass_fields__[name].default for name in _FOR_SPEED}
