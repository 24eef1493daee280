"""Text from models and data sets stays text on the page, whatever it holds."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from browser import attribute, dump, needs_chromium
from dopr.report import write_report
from dopr.report.completions import shorten
from report_fixtures import HOSTILE, Page, comparison, write_jsonl

PIECES = [
    *("<script>", "</script>", "</SCRIPT >", "<!--", "-->", "<![CDATA[", "]]>", "</style>"),
    *("<img src=x onerror=alert(1)>", "<svg/onload=x>", '"', "'", "&lt;", "&#60;", "{{ 1 }}"),
    *("javascript:x", "\\u003c", "\\", "\u2028", "\u2029", "\x00", "\r\n", "\ufeff", "\u202e"),
    *("__proto__", "constructor", "</title>", "</pre>", "</textarea>", "https://x.example/"),
]
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=6)), max_size=8).map("".join)
JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.just(10**400)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def storable(text: str) -> str:
    """The text as Parquet and YAML can hold it: without halves of surrogate pairs."""
    return text.encode("utf-8", "replace").decode()


def write_run(folder: Path, text: str) -> Path:
    """A run with the text in every place that a run's words come from."""
    rows = [
        {"step": 1, "reward": 0.5, "select/prompt_ids": [text, "a"], "select/success": [0.5, 1]},
        {"step": 2, "reward": text, "select/prompt_ids": [text], f"rewards/{text}/mean": 1.0},
    ]
    cut = " ".join(storable(text).splitlines())  # a line being written, which has no end yet
    write_jsonl(folder / "metrics.jsonl", rows, tail=cut)
    write_jsonl(folder / "eval.jsonl", [{"step": 1, "avg@k": 0.5, "k": text}], tail=cut)
    write_jsonl(folder / "warnings.jsonl", [{"step": text, "name": text, "message": text}])
    stored = storable(text)
    names = {"strategy": f"s{stored}", "seed": f"0{stored}", "versions": {f"v{stored}": stored}}
    (folder / "config.yaml").write_text(json.dumps(names), encoding="utf-8")
    (folder / "completions").mkdir()
    table: dict[str, Any] = {"step": 1, "prompt": stored, "completion": f"c{stored}"}
    table |= {"prompt_id": stored, "some_reward": 1.0, "answer": stored}
    pd.DataFrame([table]).to_parquet(folder / "completions" / "completions_00001.parquet")
    return folder


def skeleton(page: Page) -> list[tuple[str, list[str]]]:
    """Every element with the names of its attributes."""
    return [(tag, sorted(attributes)) for tag, attributes in page.elements]


def page_of(text: str) -> Page:
    with tempfile.TemporaryDirectory() as folder:
        written = write_report(write_run(Path(folder), text)).read_bytes()
    # No end of line but the template's own, and nothing that another encoding could read as markup.
    assert b"\xe2\x80\xa8" not in written.split(b'id="data">')[1]
    return Page(written.decode("utf-8"))


@pytest.fixture(scope="module")
def harmless() -> list[tuple[str, list[str]]]:
    return skeleton(page_of("plain words"))


@given(text=TEXT)
@example(text=HOSTILE)
@example(text="\ud800</script>")
@example(text="")
@settings(max_examples=40, deadline=None)
def test_no_text_changes_the_page(harmless: list[tuple[str, list[str]]], text: str) -> None:
    page = page_of(text)
    assert skeleton(page) == harmless
    table = json.loads(page.json["completions-0"])
    assert table["rows"][0]["c"] == shorten(f"c{storable(text)}")
    assert storable(text) in map(storable, json.loads(page.json["data"])["ids"])


@given(row=st.dictionaries(st.sampled_from(("reward", "entropy", "step", "avg@k")), JSON_VALUES))
@example(row={"reward": 10**400, "avg@k": -(10**400)})
@example(row={"step": 1e300, "reward": [{}], "avg@k": {"a": None}})
@settings(max_examples=40, deadline=None)
def test_no_value_of_a_metric_breaks_the_page(row: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_jsonl(folder / "metrics.jsonl", [{"step": 1, "reward": 0.5}, row])
        write_jsonl(folder / "eval.jsonl", [{"step": 1, "avg@k": 0.5}, row, {"step": 3} | row])
        page = Page(write_report(folder).read_text(encoding="utf-8"))
    json.loads(page.json["data"])


@needs_chromium
def test_hostile_names_and_warnings_do_nothing_in_a_browser(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    content = comparison(seeds=1)
    content["strategies"] = {HOSTILE: content["strategies"]["dopr"], "grpo": {"seeds": [HOSTILE]}}
    content["ratios"] = {HOSTILE: content["ratios"]["dopr/grpo"]}
    content["target"] = {"metric": HOSTILE, "value": 0.8, "rule": HOSTILE}
    content["versions"] = {HOSTILE: HOSTILE}
    (tmp_path / "compared").mkdir()
    (tmp_path / "compared" / "comparison.json").write_text(json.dumps(content))
    for folder in (write_run(tmp_path / "run", HOSTILE), tmp_path / "compared"):
        page = write_report(folder)
        # Without the policy, only the escaping stands between the text and the browser.
        text = page.read_text(encoding="utf-8").replace("Content-Security-Policy", "x-none")
        tell = "setTimeout(() => { document.body.dataset.pwned = String(window.__pwned); }, 500);"
        page.write_text(text.replace("</body>", f"<script>{tell}</script></body>"))
        seen = dump(page, tmp_path / "profile")
        assert attribute(seen, "ready") == "1" and attribute(seen, "pwned") == "undefined"
        elements = Page(seen).elements
        assert not [tag for tag, _ in elements if tag in {"img", "b"}]
        assert not [name for _, names in elements for name in names if name.startswith("on")]
