"""Makes a model small enough for a CPU that has seen the games of examples/number_hunt.py.

    python examples/tiny_agent.py runs/tiny-agent
    python examples/number_hunt.py --model runs/tiny-agent --learning_rate 3e-4

It has seen careful players, who halve what is left, and careless ones, who guess at random. It
knows how to ask and plays little better than chance: enough to try the example, not to measure by.
"""

import argparse
import json
import random
import re

import torch
from number_hunt import GUESSES, LARGEST, TASK, Hunt
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from trl.chat_template_utils import get_training_chat_template, qwen3_chat_template

TAGS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]
PIECES = r"[A-Za-z_]+|[0-9]+|[^A-Za-z0-9_]"  # words, numbers, and everything else one by one
CAREFUL = 0.4  # share of careful players


def play(draw: random.Random) -> list[dict]:
    """One game as a chat."""
    largest = draw.randint(2, LARGEST)
    game = Hunt()
    told = game.reset(largest, draw.randint(1, largest))
    chat: list[dict] = [{"role": "user", "content": TASK + told}]
    careful = draw.random() < CAREFUL
    low, high = 1, largest
    for _ in range(GUESSES):
        number = (low + high) // 2 if careful else draw.randint(1, largest)
        call = {"name": "guess", "arguments": {"number": number}}
        answer = game.guess(number)
        chat += [
            {"role": "assistant", "content": "", "tool_calls": [{"function": call}]},
            {"role": "tool", "name": "guess", "content": answer},
        ]
        if answer == "right":
            break
        low, high = (number + 1, high) if answer == "higher" else (low, number - 1)
    return [*chat, {"role": "assistant", "content": "Found." if game.found else "Not found."}]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each word that games use, with Qwen3's chat template."""
    bare = Tokenizer(models.WordLevel({"<|im_end|>": 0}, unk_token="<|im_end|>"))
    writer = PreTrainedTokenizerFast(tokenizer_object=bare)
    writer.chat_template = qwen3_chat_template
    draw = random.Random(0)
    texts = [
        writer.apply_chat_template(play(draw), tools=[Hunt().guess], tokenize=False)
        for _ in range(50)
    ]
    numbers = " ".join(str(number) for number in range(LARGEST + 1))
    text = "".join(texts) + numbers + json.dumps("error: not found, unsupported")
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    words = sorted(set(re.findall(PIECES, text)))
    vocabulary = {token: i for i, token in enumerate([*marks, *TAGS, "<unk>", *words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
    core.decoder = decoders.Fuse()
    core.add_tokens(TAGS)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = qwen3_chat_template
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--games", type=int, default=8, help="in a step")
    options = parser.parse_args()
    torch.manual_seed(0)
    draw = random.Random(1)
    tokenizer = make_tokenizer()
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=16,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )
    template = get_training_chat_template(tokenizer)  # says which tokens are the player's
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, options.steps)
    for step in range(options.steps):
        batch = tokenizer.apply_chat_template(
            [play(draw) for _ in range(options.games)],
            tools=[Hunt().guess],
            chat_template=template,
            return_dict=True,
            return_assistant_tokens_mask=True,
            padding=True,
            return_tensors="pt",
        )
        labels = batch["input_ids"].masked_fill(
            torch.as_tensor(batch["assistant_masks"]) == 0, -100
        )
        loss = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels
        ).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    model.save_pretrained(options.folder)
    tokenizer.save_pretrained(options.folder)


if __name__ == "__main__":
    main()
