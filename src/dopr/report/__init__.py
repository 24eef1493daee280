"""One self-contained HTML page about a run or a comparison: `write_report`.

The page needs no network and no other file. Text from models and data sets is only ever inserted
as text, and a content security policy allows no script but the page's own.
"""

import base64
import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from dopr.core.errors import UserError
from dopr.core.files import write_atomically
from dopr.report.completions import TEXT_LIMIT, Interner, completion_table
from dopr.report.data import Source, read_source, section
from dopr.report.figures import payload
from dopr.report.summary import (
    COSTS,
    conclusion,
    cost_table,
    facts,
    pool_line,
    ratio_table,
)

__all__ = ["write_report"]

SIZE_LIMIT = 7_500_000  # bytes of the page
COMPLETIONS_PER_RUN = 400
COMPLETION_BUDGET = 4_000  # completions on the page, over all runs
VISITS_PER_RUN = 6_000
VISIT_BUDGET = 60_000


def write_report(run_dir: Path, output: Path | None = None, reload_s: int | None = None) -> Path:
    """Writes the page about a run directory or a comparison directory.

    Args:
        run_dir: a directory written by `dopr train` or `dopr compare`; it may still be in progress.
        output: the file to write; `report.html` in `run_dir` by default. It appears whole or not
            at all.
        reload_s: seconds after which the page loads itself again, for one that is written again
            while a run goes on; None for a page that stays.

    Returns:
        The path of the page, below 8 MB. What was left out to keep it there is said on it.

    Raises:
        UserError: `run_dir` does not exist or holds no run, or `output` cannot be written.
    """
    run_dir = Path(run_dir)
    target = Path(output) if output is not None else run_dir / "report.html"
    source = read_source(run_dir)
    share = 1.0
    page = _render(source, share, reload_s)
    while len(page) > SIZE_LIMIT and share > 0.01:
        share /= 2
        page = _render(source, share, reload_s)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, page)
    except OSError as error:
        raise UserError(f"cannot write the report to {str(target)!r}: {error.strerror}") from error
    return target


def _render(source: Source, share: float, reload_s: int | None) -> bytes:
    """The page with `share` of the usual number of completions, as UTF-8.

    Completions take most of the room, so the visits of prompts shrink only below a share of 1/8.
    """
    runs = max(len(source.runs), 1)
    notes: list[str] = []
    visit_limit = int(min(1.0, 8 * share) * min(VISITS_PER_RUN, VISIT_BUDGET // runs))
    row_limit = int(share * min(COMPLETIONS_PER_RUN, COMPLETION_BUDGET // runs))
    ids = Interner()
    data = payload(source, max(visit_limit, 1), ids)
    tables = [completion_table(run, max(row_limit, 1), ids, notes) for run in source.runs]
    data["ids"] = ids.items
    data["text_limit"] = TEXT_LIMIT
    data["has_completions"] = [table is not None for table in tables]
    script = _asset("charts.js") + _asset("app.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = _environment().from_string(_asset("page.html"))
    html = template.render(
        source=source,
        notes=[*source.notes, *notes],
        conclusion=conclusion(source),
        pool=pool_line(source),
        reload_s=reload_s,
        alarms=[(run.label, alarm) for run in source.runs for alarm in run.alarms],
        target=section(source.comparison, "target"),
        cost_titles=[title for _, _, title in COSTS],
        costs=cost_table(source),
        ratios=ratio_table(source),
        versions=facts(source, "versions"),
        machine=facts(source, "machine"),
        data=data,
        data_json=script_json(data),
        tables=[script_json(table) for table in tables],
        style=_asset("style.css"),
        script=script,
        script_hash=digest,
    )
    return html.encode("utf-8", errors="replace")


def script_json(value: Any) -> str:
    """JSON that is safe inside a script element, whatever the strings in it hold.

    No `<`, `>` or `&` is left, so neither `</script>` nor `<!--` can end or change the element;
    nor are the two line separators that JavaScript treats as ends of line.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _environment() -> jinja2.Environment:
    """Templates that escape everything they are not told to trust."""
    return jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )


def _asset(name: str) -> str:
    """The text of a file of this package."""
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
