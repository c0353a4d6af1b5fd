"""Fixtures for the review page."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.helpers import browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.chromium() as opened:
        expect.set_options(timeout=20_000)
        yield opened


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A page of a browser that has kept nothing yet; nothing may go wrong in it unseen."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("console", lambda message: wrong.append(message.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on(
        "request", lambda request: request.url.startswith(("file:", "data:", "blob:")) or wrong.append(request.url)
    )
    yield opened
    context.close()
    assert wrong == []
