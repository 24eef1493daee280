"""Frozen models that make a (prompt, response) a vector."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dopr.core.errors import UserError
from dopr.policy.models import best_device, load_model
from dopr.policy.prompts import prompt_texts, prompt_token_ids
from dopr.rewards.learned.reward import Embedder, EmbeddingReward, Vectors, read_head

SENTENCE_PREFIX = "sentence-transformers:"


class CausalEmbedder:
    """Mean last hidden state of a causal language model over the tokens of the response.

    The response is read after its prompt. An empty response gets the state of the prompt's last
    token, where it would have begun. What exceeds the model's context is cut: the beginning of the
    prompt first, then the end of the response.

    Args:
        model, tokenizer: loaded ones; the model is only read.
        batch_size: sequences in a forward pass.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int = 32) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._context = getattr(model.config.get_text_config(), "max_position_embeddings", None)

    def embed(self, prompts: Sequence[Any], responses: Sequence[str]) -> Vectors:
        """One vector a pair, shape (n, width); see `Embedder.embed`."""
        pairs = self._encode(prompts, responses)
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
        vectors: list[Any] = [None] * len(pairs)
        for start in range(0, len(order), self._batch_size):
            rows = order[start : start + self._batch_size]
            found = self._forward([pairs[i] for i in rows])
            for i, vector in zip(rows, found, strict=True):
                vectors[i] = vector
        return np.asarray(vectors, dtype=np.float32)

    def _encode(
        self, prompts: Sequence[Any], responses: Sequence[str]
    ) -> list[tuple[list[int], list[int]]]:
        """Token ids of prompt and response, at least one and at most the context in all."""
        before = [prompt_token_ids(self._tokenizer, [prompt])[0] for prompt in prompts]
        after = self._tokenizer(list(responses), add_special_tokens=False)["input_ids"]
        pairs = []
        for prompt, response in zip(before, after, strict=True):
            if not prompt and not response:
                prompt = [self._tokenizer.eos_token_id]
            if self._context is not None:
                response = response[: self._context]
                prompt = prompt[max(0, len(prompt) + len(response) - self._context) :]
            pairs.append((prompt, response))
        return pairs

    @torch.no_grad()
    def _forward(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Vectors:
        width = max(len(prompt) + len(response) for prompt, response in pairs)
        ids = torch.zeros(len(pairs), width, dtype=torch.long)
        mask, read = torch.zeros_like(ids), torch.zeros(len(pairs), width)
        for row, (prompt, response) in enumerate(pairs):
            end = len(prompt) + len(response)
            ids[row, :end] = torch.tensor(prompt + response)
            mask[row, :end] = 1
            read[row, (len(prompt) if response else end - 1) : end] = 1
        device = self._model.device
        # The base model alone: logits over a vocabulary would be most of the memory.
        output = self._model.base_model(input_ids=ids.to(device), attention_mask=mask.to(device))
        states = output.last_hidden_state.float().cpu()
        vectors = (states * read.unsqueeze(-1)).sum(1) / read.sum(1, keepdim=True)
        return np.asarray(vectors.numpy(), dtype=np.float32)


class SentenceEmbedder:
    """A model of the package sentence-transformers; it reads prompt and response as one text.

    Args:
        name: local folder or Hub id.
        batch_size: texts in a forward pass.

    Raises:
        UserError: the package is not installed, or the model cannot be loaded.
    """

    def __init__(self, name: str, batch_size: int = 32) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise UserError(
                f"the embedder {SENTENCE_PREFIX}{name} needs the package sentence-transformers; "
                "install dopr[embeddings]"
            ) from None
        try:
            self._model = SentenceTransformer(name)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"embedder {name!r} could not be loaded ({reason})") from None
        self._batch_size = batch_size

    def embed(self, prompts: Sequence[Any], responses: Sequence[str]) -> Vectors:
        """One vector a pair, shape (n, width); see `Embedder.embed`."""
        tokenizer = getattr(self._model, "tokenizer", None)
        texts = [
            f"{_plain(tokenizer, prompt)}\n\n{response}"
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        found = self._model.encode(texts, batch_size=self._batch_size, show_progress_bar=False)
        return np.asarray(found, dtype=np.float32)


def _plain(tokenizer: Any, prompt: Any) -> str:
    """A prompt as text: a chat by its template where the model has one, else its messages."""
    if isinstance(prompt, str):
        return prompt
    if getattr(tokenizer, "chat_template", None):
        return prompt_texts(tokenizer, [prompt])[0]
    return "\n\n".join(str(message["content"]) for message in prompt)


def load_embedder(
    name: str,
    batch_size: int = 32,
    trust_remote_code: bool = False,
    dtype: str = "float32",
) -> Embedder:
    """An embedder by name, where the machine computes best.

    Args:
        name: local folder, Hub id or `tiny-reasoner` of a causal language model, or
            `sentence-transformers:NAME`.
        batch_size: sequences in a forward pass.
        trust_remote_code: run code that comes with the model.
        dtype: of a language model's weights.

    Raises:
        UserError: it does not exist or cannot be loaded.
    """
    if name.startswith(SENTENCE_PREFIX):
        return SentenceEmbedder(name.removeprefix(SENTENCE_PREFIX), batch_size)
    model, tokenizer = load_model(name, dtype=dtype, trust_remote_code=trust_remote_code)
    return CausalEmbedder(model.to(best_device()), tokenizer, batch_size)


def embedding_reward(folder: str | Path, embedder: Embedder | None = None) -> EmbeddingReward:
    """The reward function that `dopr rewards fit` wrote into a folder.

    Args:
        folder: of the head.
        embedder: what makes the vectors; None loads the one named in the head.

    Raises:
        UserError: no head, a damaged one or a predictor of prompts; the embedder cannot be loaded.
    """
    head = read_head(folder)
    return EmbeddingReward(head, embedder or load_embedder(head.embedder, dtype=head.dtype))
