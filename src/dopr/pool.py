"""The pool of prompts as the trainer sees it: their names and whether they fit the model."""

import hashlib
import json
from typing import Any

from datasets import Dataset


def content_id(prompt: Any, answer: Any = None) -> str:
    """A prompt's id where none is given: 16 hex digits of a hash of what it asks and expects."""
    text = json.dumps([prompt, answer], ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def prompt_names(dataset: Dataset) -> list[str]:
    """One id per row: the column `id` where there is one, else a hash of prompt and answer."""
    if "id" in dataset.column_names:
        return [str(name) for name in dataset["id"]]
    answers = dataset["answer"] if "answer" in dataset.column_names else [None] * len(dataset)
    return [content_id(p, a) for p, a in zip(dataset["prompt"], answers, strict=True)]
