"""The page in a real browser: the charts are drawn, every control works, nothing hostile runs."""

import re
from pathlib import Path

from browser import attribute, dump, needs_chromium
from dopr.report import write_report
from report_fixtures import HOSTILE, Page, make_comparison, make_run, write_jsonl

pytestmark = needs_chromium

# Works every control and reports in attributes of the body, which a dump of the page shows.
EXERCISE = """
<script>
try {
  const get = (id) => document.getElementById(id);
  const change = (node, value, type = 'change') => {
    if (node.type === 'checkbox') node.checked = value; else node.value = value;
    node.dispatchEvent(new Event(type));
  };
  const seen = [];
  change(get('log-x'), true);
  for (const button of get('axis-tabs').children) button.click();
  for (const option of get('metric').options) change(get('metric'), option.value);
  for (const button of [...get('legend').children]) button.click();
  seen.push(document.querySelectorAll('#accuracy-chart .line').length);
  while (get('legend').querySelector('[aria-pressed=false]')) {
    get('legend').querySelector('[aria-pressed=false]').click();
  }
  seen.push(document.querySelectorAll('#accuracy-chart .line').length);
  for (const button of get('train-tabs').children) button.click();
  for (const option of get('visit-run').options) {
    change(get('visit-run'), option.value);
    for (const order of ['final', 'first']) change(get('visit-order'), order);
  }
  for (const pad of document.querySelectorAll('.chart rect[fill=transparent]')) {
    const box = pad.getBoundingClientRect();
    for (const part of [0.01, 0.2, 0.5, 0.99]) {
      pad.dispatchEvent(new PointerEvent('pointermove', {
        clientX: box.left + part * box.width, clientY: box.top + part * box.height,
      }));
      if (part === 0.2 && pad.closest('#accuracy-chart')) seen.push(get('tip').textContent);
    }
  }
  for (const option of get('comp-run').options) change(get('comp-run'), option.value);
  change(get('comp-run'), '0');
  const found = () => parseInt(get('comp-page').textContent.replace(',', ''), 10);
  const counts = [found()];
  for (const verdict of ['right', 'wrong']) {
    change(get('comp-verdict'), verdict);
    counts.push(found());
  }
  change(get('comp-verdict'), 'all');
  get('comp-next').click();
  get('comp-prev').click();
  change(get('comp-text'), 'NO SUCH TEXT', 'input'); counts.push(found());
  change(get('comp-text'), '<script>', 'input'); counts.push(found());
  change(get('comp-step'), get('comp-step').options[1].value); counts.push(found());
  change(get('comp-id'), 'zzz', 'input'); counts.push(found());
  document.body.dataset.seen = JSON.stringify(seen);
  document.body.dataset.counts = counts.join(' ');
} catch (error) { document.body.dataset.error = String(error.stack); }
setTimeout(() => { document.body.dataset.pwned = String(window.__pwned); }, 500);
</script>
"""


def test_charts_are_drawn_and_hostile_text_does_nothing(tmp_path: Path) -> None:
    page = write_report(make_comparison(tmp_path / "cmp", seeds=2, hostile=HOSTILE))
    text = dump(page, tmp_path / "profile")
    assert attribute(text, "ready") == "1"
    page_elements = Page(text).elements
    assert not [tag for tag, _ in page_elements if tag in {"img", "b"}]
    assert not [name for _, names in page_elements for name in names if name.startswith("on")]
    chart = text.split('id="accuracy-chart"')[1].split("</svg>")[0]
    assert chart.count('class="line"') == 4 and chart.count('class="band"') == 4
    assert "target 0.8" in chart
    assert text.split('id="training-grid"')[1].count("<svg") == 4
    assert "&lt;script&gt;window.__pwned=1&lt;/script&gt;" in text


def test_every_control_works_even_without_the_security_policy(tmp_path: Path) -> None:
    page = write_report(make_comparison(tmp_path / "cmp", seeds=2, hostile=HOSTILE))
    text = page.read_text(encoding="utf-8")
    text, removed = re.subn(r"<meta http-equiv=\"Content-Security-Policy\".*?>\n", "", text)
    assert removed == 1
    page.write_text(text.replace("</body>", EXERCISE + "</body>"), encoding="utf-8")
    text = dump(page, tmp_path / "profile")
    assert attribute(text, "error") is None
    assert attribute(text, "ready") == "1"
    assert attribute(text, "pwned") == "undefined"
    seen = attribute(text, "seen") or ""
    assert seen.startswith("[0,4,") and "2 of 2 seeds this far" in seen
    counts = [int(n) for n in (attribute(text, "counts") or "").split()]
    everything, right, wrong, nothing, hostile, one_step, no_id = counts
    assert everything == right + wrong == hostile == 320
    assert (nothing, one_step, no_id) == (0, 8, 0)


def test_a_young_run_still_shows(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "metrics.jsonl", [{"step": 1, "reward": 0.25}], tail='{"step"')
    text = dump(write_report(tmp_path), tmp_path / "profile")
    assert attribute(text, "ready") == "1" and "Mean reward" in text
    (tmp_path / "empty" / "runs").mkdir(parents=True)
    text = dump(write_report(tmp_path / "empty"), tmp_path / "profile")
    assert attribute(text, "ready") == "1"
    text = dump(write_report(make_run(tmp_path / "one", "grpo", 0)), tmp_path / "profile")
    assert attribute(text, "ready") == "1" and 'class="band"' in text
