"""A real browser, for the tests that use a page as a person does."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
# Without these it calls home, at every start.
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]


@contextmanager
def chromium() -> Iterator[Any]:
    """Start Chromium for as long as the block lasts; the test is skipped where there is none."""
    if not CHROMIUM.exists():
        pytest.skip("needs Debian's Chromium (apt-get install chromium), which is not here")
    with sync_playwright() as playwright:
        options = [*QUIET, *(["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else [])]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()
