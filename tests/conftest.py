"""Shared fixtures; what tests share besides is in tests/helpers."""

import gc
import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run; HYPOTHESIS_PROFILE=default looks for new ones.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parent / "helpers"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests share the cores, and results must not depend on the number of threads."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def what_is_loaded_is_kept() -> None:
    """Each training ends with a full garbage collection, and most of its time went into looking at
    the libraries' own objects: a training step takes less."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved two-layer Llama with random weights and a character tokenizer."""
    from tiny import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("tiny-model"))
