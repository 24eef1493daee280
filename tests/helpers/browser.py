"""A page as a real browser shows it."""

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs chromium (apt install chromium)"
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def dump(path: Path, profile: Path) -> str:
    """The page's elements after its scripts have run."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "--window-size=1200,1000"]
    command += ["--virtual-time-budget=5000", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    return done.stdout.decode()


def attribute(text: str, name: str) -> str | None:
    """A data attribute of the body."""
    body = re.search(r"<body[^>]*>", text)
    match = re.search(rf'data-{name}="([^"]*)"', body.group()) if body else None
    return html.unescape(match.group(1)) if match else None
