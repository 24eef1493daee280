"""Recorded histories: how often each prompt was solved, epoch after epoch.

Read from a JSON object (prompt id -> list of per-epoch mean accuracies), from a run's
ledger.parquet (one value a prompt), or from a run directory (its metrics.jsonl holds the mean
reward of every group, in order).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import UserError
from dopr.core.json_lines import read_steps
from dopr.strategies.parts.learning_curves import read_curves, to_curves

DEFAULT_GROUP_SIZE = 8
_LARGEST_GROUP = 128
# How far a recorded rate may lie from a whole count of the group's rollouts, in rollouts.
_COUNT_TOLERANCE = 1e-2
_KINDS = "a JSON file of per-epoch accuracies, a ledger.parquet, or a run directory"


@dataclass(frozen=True)
class History:
    """Success rates of a pool of prompts over the epochs of a recorded run.

    Attributes:
        names: the prompts' ids as the record has them; their positions are the pool's row numbers.
        rates: shape (prompts, epochs), in [0, 1], without gaps.
        lengths: shape (prompts,), epochs recorded; after these the last rate stands.
        group_size: rollouts behind each rate.
        group_size_from: `given`, `record` or `inferred`.
        notes: what had to be filled in or left out, one sentence each.
        gaps: epochs that were not recorded and are filled in.
    """

    names: tuple[str, ...]
    rates: NDArray[np.float64]
    lengths: NDArray[np.int64]
    group_size: int
    group_size_from: str
    notes: tuple[str, ...] = ()
    gaps: int = 0

    @property
    def size(self) -> int:
        """Number of prompts."""
        return len(self.names)

    @property
    def epochs(self) -> int:
        """Number of epochs of the prompt that has most."""
        return self.rates.shape[1]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Shape (prompts, epochs): rollouts solved, of `group_size`."""
        return np.rint(self.rates * self.group_size).astype(np.int64)

    @property
    def mixed(self) -> NDArray[np.bool_]:
        """Shape (prompts, epochs): whether some rollouts of the group were solved, but not all."""
        return (self.counts > 0) & (self.counts < self.group_size)

    @property
    def learnable(self) -> NDArray[np.bool_]:
        """Shape (prompts,): whether the prompt ever has a mixed group."""
        return np.asarray(self.mixed.any(axis=1))

    @property
    def recorded(self) -> NDArray[np.bool_]:
        """Shape (prompts, epochs): false where a prompt's last rate stands in for later epochs."""
        return np.arange(self.epochs) < self.lengths[:, None]

    def facts(self) -> dict[str, Any]:
        """What a reader must know of the record; plain values."""
        return {
            "prompts": self.size,
            "epochs": self.epochs,
            "shortest": int(self.lengths.min()),
            "longest": int(self.lengths.max()),
            "group_size": self.group_size,
            "group_size_from": self.group_size_from,
            "learnable": int(self.learnable.sum()),
            "signal_rate": float(self.mixed[self.recorded].mean()),
            "notes": list(self.notes),
        }


@dataclass
class _Record:
    """One file as it is: rates of each prompt with NaN for gaps, and what else it tells."""

    rates: dict[str, NDArray[np.float64]]
    group_size: int | None = None
    notes: list[str] = field(default_factory=list)


def read_histories(paths: Sequence[str | Path], group_size: int | None = None) -> History:
    """Read one or more files of the same kind of run as one pool of prompts.

    A gap (null) takes the value before it, or the first one recorded where nothing is before it. A
    prompt with fewer epochs than others keeps its last value.

    Args:
        paths: JSON files, ledger.parquet files or run directories.
        group_size: rollouts behind each rate; None takes it from the record, or infers it: the
            smallest size for which all rates are whole counts.

    Raises:
        UserError: a file is missing or no history, or a prompt is in two of them.
    """
    records = [_read(Path(path)) for path in paths]
    rates: dict[str, NDArray[np.float64]] = {}
    for path, record in zip(paths, records, strict=True):
        if twice := rates.keys() & record.rates.keys():
            raise UserError(
                f"prompt {min(twice)!r} of {str(path)!r} is in another file too; give each prompt "
                "one history"
            )
        rates |= record.rates
    notes = list(dict.fromkeys(note for record in records for note in record.notes))
    matrix, lengths, gaps = _fill(rates.values(), notes)
    sizes = {record.group_size for record in records}
    of_record = sizes.pop() if len(sizes) == 1 else None
    size, origin = _group_size(matrix, group_size, of_record)
    if not _are_counts(matrix, size):
        notes.append(f"rates that are no whole count of {size} rollouts are rounded to the nearest")
    return History(tuple(rates), matrix, lengths, size, origin, tuple(notes), gaps)


def _read(path: Path) -> _Record:
    if path.is_dir():
        return _read_run(path)
    if not path.is_file():
        raise UserError(f"there is no history {str(path)!r}; give {_KINDS}")
    if path.suffix == ".parquet":
        return _read_ledger(path)
    return _Record(_checked(read_curves(path), path))


def _read_ledger(path: Path) -> _Record:
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["id", "visits", "rollouts", "mean"]).to_pydict()
    except Exception as error:  # pyarrow fails in many ways on a file that is not one
        raise UserError(
            f"{str(path)!r} cannot be read as a run's ledger.parquet "
            f"({' '.join(str(error).split())[:200]}); give {_KINDS}"
        ) from None
    rows = list(zip(*(table[name] for name in ("id", "visits", "rollouts", "mean")), strict=True))
    seen = [row for row in rows if row[1] and row[3] is not None and not np.isnan(row[3])]
    means = {str(name): [mean] for name, _, _, mean in seen}
    notes = ["a ledger holds one rate a prompt, its discounted mean"]
    if len(seen) < len(rows):
        notes.append(f"{len(rows) - len(seen)} prompts without a scored rollout are left out")
    sizes = [rollouts / visits for _, visits, rollouts, _ in seen]
    return _Record(
        _checked(to_curves(means, path), path),
        round(float(np.median(sizes))) if sizes else None,
        notes,
    )


def _read_run(path: Path) -> _Record:
    from dopr.core.configuration import load_yaml

    notes: list[str] = []
    visits: dict[str, list[Any]] = {}
    for row in read_steps(path / "metrics.jsonl", notes):
        names, rates = row.get("select/prompt_ids"), row.get("select/success")
        if isinstance(names, list) and isinstance(rates, list):
            for name, rate in zip(names, rates, strict=False):
                visits.setdefault(str(name), []).append(rate)
    if not visits:
        if (path / "ledger.parquet").is_file():
            return _read_ledger(path / "ledger.parquet")
        raise UserError(
            f"{str(path)!r} holds no record of rolled-out prompts (metrics.jsonl with "
            f"select/prompt_ids, or ledger.parquet); give {_KINDS}"
        )
    scored = {name: rates for name, rates in visits.items() if any(r is not None for r in rates)}
    notes.append("of a run, the n-th group of a prompt stands for epoch n")
    if len(scored) < len(visits):
        notes.append(f"{len(visits) - len(scored)} prompts without a scored rollout are left out")
    config = load_yaml(path / "config.yaml") if (path / "config.yaml").is_file() else {}
    size = config.get("num_generations")
    return _Record(
        _checked(to_curves(scored, path), path), size if isinstance(size, int) else None, notes
    )


# -- checking and filling --------------------------------------------------------------------


def _checked(curves: dict[str, NDArray[np.float64]], path: Path) -> dict[str, NDArray[np.float64]]:
    """The same rates, if each prompt has one and all of them are success rates."""
    for prompt, rates in curves.items():
        where = f"prompt {prompt!r} of {str(path)!r}"
        if not rates.size:
            raise UserError(f"{where} has a list without any epoch; leave the prompt out")
        for epoch in np.flatnonzero((rates < 0) | (rates > 1)):
            raise UserError(
                f"{where} has {rates[epoch]:g} at epoch {epoch}; a history holds success rates "
                "between 0 and 1"
            )
        if np.isnan(rates).all():
            raise UserError(f"{where} has no recorded epoch, only null; leave the prompt out")
    return curves


def _fill(
    histories: Iterable[NDArray[np.float64]], notes: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
    """All histories as one matrix without gaps, their lengths, and how many gaps were filled."""
    rows = list(histories)
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    matrix = np.full((len(rows), int(lengths.max())), np.nan)
    for row, values in zip(matrix, rows, strict=True):
        row[: len(values)] = values
    missing = np.isnan(matrix)
    gaps = int(missing[np.arange(matrix.shape[1]) < lengths[:, None]].sum())
    if gaps:
        notes.append(f"{gaps} missing epochs take the value before them, or the first recorded one")
    if lengths.min() < lengths.max():
        notes.append(
            f"prompts have {lengths.min()} to {lengths.max()} epochs; after its own, a prompt "
            "keeps its last value"
        )
    first = np.argmin(missing, axis=1)
    source = np.where(missing, first[:, None], np.arange(matrix.shape[1]))
    source = np.maximum.accumulate(source, axis=1)
    return np.take_along_axis(matrix, source, axis=1), lengths, gaps


def _group_size(
    rates: NDArray[np.float64], given: int | None, of_record: int | None
) -> tuple[int, str]:
    if given is not None:
        if given < 1:
            raise UserError(f"the recorded group size is {given}; it must be at least 1")
        return given, "given"
    if of_record is not None and of_record >= 1:
        return of_record, "record"
    values = np.unique(rates)
    if set(values.tolist()) <= {0.0, 1.0}:  # any size fits
        return DEFAULT_GROUP_SIZE, "inferred"
    fitting = (size for size in range(2, _LARGEST_GROUP + 1) if _are_counts(values, size))
    return next(fitting, DEFAULT_GROUP_SIZE), "inferred"


def _are_counts(rates: NDArray[np.float64], size: int) -> bool:
    counts = rates * size
    return bool(np.all(np.abs(counts - np.rint(counts)) <= _COUNT_TOLERANCE))
