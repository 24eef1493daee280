"""Vectors on disk, so that nothing is embedded twice: safetensors and a manifest.

One folder an embedder holds `embeddings.safetensors` (`vectors`, shape (rows, width)) and
`manifest.json` (the embedder's name, a fingerprint of its files, the width, and a hash a row).
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from dopr.core.errors import UserError
from dopr.core.files import replacing, write_atomically
from dopr.policy.embedder import Embedder, Vectors
from dopr.policy.models import resolve_model
from dopr.runs.reward_model.data import prompt_key

_VECTORS = "embeddings.safetensors"
_MANIFEST = "manifest.json"


def embed_cached(
    folder: Path,
    name: str,
    dtype: str,
    load: Callable[[], Embedder],
    prompts: Sequence[Any],
    responses: Sequence[str],
) -> tuple[Vectors, int]:
    """Vectors of pairs, from the cache where it has them.

    Args:
        folder: of the cache; one below it belongs to the embedder.
        name: of the embedder.
        dtype: of its weights.
        load: makes the embedder; called only if something is missing.
        prompts: n texts or chats.
        responses: n texts.

    Returns:
        The vectors, shape (n, width), and how many were computed now.

    Raises:
        UserError: the cache is damaged, or holds vectors of another width.
    """
    print_of_files = fingerprint(name)
    home = folder / hashlib.sha256(f"{name}\n{dtype}\n{print_of_files}".encode()).hexdigest()[:16]
    keys = [_key(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
    known, vectors = _read(home)
    place = {key: i for i, key in enumerate(known)}
    missing = {key: i for i, key in enumerate(keys) if key not in place}
    if missing:
        rows = list(missing.values())
        new = load().embed([prompts[i] for i in rows], [responses[i] for i in rows])
        if known and new.shape[1] != vectors.shape[1]:
            raise UserError(
                f"{name!r} makes embeddings of width {new.shape[1]}, but the cache holds some of "
                f"width {vectors.shape[1]}; remove {str(home)!r}"
            )
        vectors = np.concatenate([vectors, new]) if known else new
        for key in missing:
            place[key] = len(place)
        manifest = {
            "embedder": name,
            "dtype": dtype,
            "fingerprint": print_of_files,
            "width": int(vectors.shape[1]),
            "keys": list(place),
        }
        _write(home, vectors, manifest)
    return vectors[[place[key] for key in keys]], len(missing)


def fingerprint(name: str) -> str:
    """What changes when a local model's files do; empty for a Hub id.

    Names, sizes and times of the files: reading the weights of a large model would take longer than
    embedding many a small file.
    """
    folder = Path(resolve_model(name))
    if not folder.is_dir():
        return ""
    facts = []
    for file in sorted(folder.iterdir()):
        if file.suffix in (".safetensors", ".json", ".jinja"):
            found = file.stat()
            facts.append([file.name, found.st_size, found.st_mtime_ns])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _key(prompt: Any, response: str) -> str:
    text = json.dumps([prompt_key(prompt), response])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _read(home: Path) -> tuple[list[str], Vectors]:
    if not (home / _MANIFEST).is_file():
        return [], np.empty((0, 0), np.float32)
    try:
        keys = json.loads((home / _MANIFEST).read_text())["keys"]
        vectors = load_file(home / _VECTORS)["vectors"]
    except (OSError, ValueError, KeyError, SafetensorError):
        raise UserError(f"the embeddings in {str(home)!r} are damaged; remove it") from None
    # Vectors are written before the manifest, so an interrupted write leaves rows without a name.
    if len(vectors) < len(keys):
        raise UserError(f"the embeddings in {str(home)!r} are damaged; remove it")
    return keys, vectors[: len(keys)]


def _write(home: Path, vectors: Vectors, manifest: dict[str, Any]) -> None:
    home.mkdir(parents=True, exist_ok=True)
    with replacing(home / _VECTORS) as partial:
        save_file({"vectors": np.ascontiguousarray(vectors)}, partial)
    write_atomically(home / _MANIFEST, json.dumps(manifest))
