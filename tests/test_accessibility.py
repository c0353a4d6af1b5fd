"""Every page and picture that thaw writes, asked in a real browser: nothing that keeps somebody from using it.

axe-core asks all that it can; what it cannot is how much the text and the lines of drawings stand out (WCAG 2.2, 1.4.3
and 1.4.11): that is asked here.
"""

import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages import evaluate
from tests.helpers import finished, reviewing
from tests.helpers.browser import chromium
from thaw.artifacts import write_json
from thaw.audit.review import Neighbour, Suspect
from thaw.evidence import comparison, verification
from thaw.evidence.significance import Interval
from thaw.runs import publishing
from thaw.sweeps import picture
from thaw.sweeps.seeds import Seeds

pytestmark = pytest.mark.slow
VIEWS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
CONFLICT = Suspect("conflict", "cats/x.png", "cats", None, "Why.", "dogs", (Neighbour("dogs/x.png", "dogs", None),))
TEXT, MARK = 4.5, 3.0  # the least contrast of a text, and of a large one or of what carries meaning (WCAG)
# What a page draws, each with its colours and the one that lies behind it, all that is translucent composited.
# Behind a mark are areas, and no other mark: lines cross, and dots stand on the bar of their range. Left out are the
# grid and the frame, which only guide the eye, and the cells of a confusion matrix, whose numbers say the same.
DRAWN = """() => {
  const marks = 'polyline, circle, line:not(.grid), .rail :is(.zero, .bar, .dot), .f1 :is(i, b), .key:not(.heat)';
  const rgba = text => {
    const [r, g, b, alpha = 1] = (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
    return [...[r, g, b].map(part => text.startsWith('color(') ? 255 * part : part), alpha];
  };
  const over = (top, below) => [0, 1, 2].map(i => top[3] * top[i] + (1 - top[3]) * below[i]);
  const opacity = element => {
    let all = 1;
    for (let one = element; one; one = one.parentElement) all *= Number(getComputedStyle(one).opacity);
    return all;
  };
  const paints = element => {
    const style = getComputedStyle(element), all = opacity(element);
    const svg = [['fill', 'fillOpacity'], ['stroke', 'strokeOpacity']]
      .filter(([paint]) => style[paint] !== 'none' && !(paint === 'fill' && element.tagName === 'line'));
    const ring = style.boxShadow.includes('inset') ? [[style.boxShadow.match(/rgba?\\(.*?\\)/)[0], 1]] : [];
    const found = element instanceof SVGElement && element.tagName !== 'svg'
      ? svg.map(([paint, alpha]) => [style[paint], Number(style[alpha])])
      : [[style.backgroundColor, 1], ...ring];
    return found.map(([colour, alpha]) => { const c = rgba(colour); return [c[0], c[1], c[2], c[3] * alpha * all]; });
  };
  const behind = (element, x, y) => {
    const stack = document.elementsFromPoint(x, y), at = stack.indexOf(element);
    const areas = stack.slice(at + 1).filter(one => one !== element && !one.matches(marks + ', text'));
    return areas.reverse().reduce((below, one) => over((paints(one)[0] || [0, 0, 0, 0]), below), [255, 255, 255]);
  };
  const found = [];
  for (const element of document.querySelectorAll('svg text, ' + marks)) {
    const box = element.getBoundingClientRect();
    if (!element.checkVisibility() || !(box.width || box.height)) continue;
    element.scrollIntoView({block: 'center', inline: 'center'});
    const now = element.getBoundingClientRect();
    let [x, y] = [now.x + now.width / 2, now.y + now.height / 2];
    if (element instanceof SVGGeometryElement) {  // the middle of a line is on it, that of its box need not be
      const on = element.getPointAtLength(element.getTotalLength() / 2).matrixTransform(element.getScreenCTM());
      [x, y] = [on.x, on.y];
    }
    const below = behind(element, x, y), is_text = element.tagName === 'text', style = getComputedStyle(element);
    const shown = is_text ? paints(element).slice(0, 1) : paints(element);
    const size = parseFloat(style.fontSize), bold = Number(style.fontWeight) >= 700;
    const html = element.outerHTML.slice(0, 200);
    found.push({html, below, shown: shown.map(one => over(one, below)), small: is_text && size < (bold ? 18.66 : 24)});
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


def violations(page: Any) -> list[str]:
    """What axe-core finds on a page as it is: what is wrong, and where."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {node['failureSummary']} {node['html'][:300]}" for one in found for node in one["nodes"]]


def contrast(one: Sequence[float], other: Sequence[float]) -> float:
    """How much two colours (sRGB, 0 to 255) differ: (L₁ + 0.05) / (L₂ + 0.05) of their relative luminances (WCAG)."""
    parts = np.array([one, other]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ [0.2126, 0.7152, 0.0722])
    return float((high + 0.05) / (low + 0.05))


def drawn(page: Any) -> list[tuple[float, float, str]]:
    """What a page draws: the contrast that each has, the least that it has to have, and what it is."""
    return [
        (
            max((contrast(colour, one["below"]) for colour in one["shown"]), default=1.0),
            TEXT if one["small"] else MARK,
            one["html"],
        )
        for one in page.evaluate(DRAWN)
    ]


def faint(page: Any) -> list[str]:
    """What a page draws with too little contrast: how much it has, and what it is."""
    return [f"{ratio:.2f}: {html}" for ratio, least, html in drawn(page) if ratio < least]


def look(browser: Any, address: str, *steps: str) -> dict[str, list[str]]:
    """Look at a page in every view, as it opens and after each step (a key, or a script)."""
    wrong = {}
    for width, scheme in VIEWS:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        page.goto(address)
        for step in ("", *steps):
            if len(step) > 10:
                page.evaluate(step)
            elif step:
                page.keyboard.press(step)
            if found := [*violations(page), *faint(page)]:
                wrong[f"{width}, {scheme}, {step or 'as it opens'}"] = found
        context.close()
    return wrong


@pytest.mark.parametrize("what", ["tuned", "head only", "few test images, many classes"])
def test_the_report(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(publishing, "publish", lambda *_: None)
    how: dict[str, Any] = {}
    if what.startswith("few"):
        how = {"classes": tuple(f"class number {number}" for number in range(24)), "per_class": 8}
        monkeypatch.setattr(comparison, "FEW", 200)
    paths = (finished.head_only if what == "head only" else finished.pipeline)(tmp_path, **how)
    pair = {
        "kind": "copy",
        "path": "class_0/000.png",
        "label": "cat",
        "split": "train",
        "why": "Why.",
        "suggestion": "",
    }
    pair["resembles"] = [{"path": "class_1/002.png", "label": "dog", "split": "test", "note": ""}]
    write_json(paths.findings, finished.FINDINGS | {"conflicts": 1, "suspects": [pair, pair | {"kind": "odd"}]})
    evaluate.run(paths, finished.EVALUATE.model_copy(update={"splits": 10}), finished.SEED)
    opened = "document.querySelectorAll('details').forEach(one => one.open = true)"
    assert look(browser, paths.report.as_uri(), opened) == {}


def test_the_review_page(browser: Any, tmp_path: Path) -> None:
    address = reviewing.written(tmp_path, [CONFLICT, *reviewing.SUSPECTS])
    decided = ("k", "r", "Enter", "k", "s", "k", "k", "x")  # one kind of suspect after the other, to the end
    assert look(browser, address, "?", "Escape", *decided, "ArrowLeft", "find('apply').open = true") == {}


def test_the_review_page_without_suspects(browser: Any, tmp_path: Path) -> None:
    assert look(browser, reviewing.written(tmp_path, [])) == {}


@pytest.mark.parametrize(
    ("drawing", "ratios"),
    [
        pytest.param('<text y="20" fill="#767676">Some text</text>', [4.54], id="text-on-the-page"),
        pytest.param('<rect width="99" height="40"/><text y="20" fill="#fff">Some text</text>', [21], id="on-a-rect"),
        pytest.param(
            '<rect width="99" height="40" fill-opacity=".5"/><text y="20" fill="#fff">x</text>',
            [3.98],
            id="translucent",
        ),
        pytest.param('<g opacity=".5"><text y="20">Some text</text></g>', [3.98], id="in-a-translucent-group"),
        pytest.param('<line x2="90" y1="9" y2="9" stroke="#949494" stroke-width="3"/>', [3.03], id="line"),
        pytest.param('<line class="grid" x2="90" y1="9" y2="9" stroke="#eee"/>', [], id="grid"),
        pytest.param('<circle cx="9" cy="9" r="5" fill="#fff" stroke="#767676"/>', [4.54], id="circle-with-a-rim"),
        pytest.param('<text y="20" display="none">Some text</text>', [], id="hidden"),
    ],
)
def test_contrast_is_measured_as_it_is_seen(browser: Any, drawing: str, ratios: list[float]) -> None:
    page = browser.new_page()
    page.set_content(f'<body style="background: #fff"><svg width="200" height="100">{drawing}</svg></body>')
    assert [ratio for ratio, *_ in drawn(page)] == pytest.approx(ratios, abs=0.02)
    page.close()


def test_what_is_too_faint_is_named(browser: Any) -> None:
    page = browser.new_page()
    page.set_content(
        '<svg><text y="20" fill="#777">small</text><text y="60" fill="#777" font-size="30">big</text></svg>'
    )
    assert faint(page) == ['4.48: <text y="20" fill="#777">small</text>']
    page.close()


def test_the_pictures_of_a_sweep(browser: Any, tmp_path: Path) -> None:
    jobs = [((f"last_{number % 3}", str(number % 5 / 10)), 0.8 + number / 100) for number in range(12)]
    found = Seeds(["0", "1", "2"], [0.90, 0.92, 0.94], [0.93, 0.93, 0.93], True, 0.25)
    points = [picture.Point(f"{ms}", ms, ms / 20, Interval(ms / 21, ms / 19), ms != 9) for ms in (18, 9, 8, 1)]
    pictures = [
        picture.picture(["finetune", "dropout"], jobs[::-1], "validation"),
        picture.seeds(found),
        picture.cost(points, "cross-validated"),
    ]
    for scheme, content in itertools.product(("light", "dark"), pictures):
        page = browser.new_page(color_scheme=scheme)
        (tmp_path / "picture.svg").write_text(content, encoding="utf-8")
        page.goto((tmp_path / "picture.svg").as_uri())
        assert faint(page) == []
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_verdict_beside_the_report(browser: Any, tmp_path: Path, scheme: str) -> None:
    """A picture in a page shows nothing of what it is made of, but its pixels."""
    paths = finished.head_only(tmp_path)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(publishing, "publish", lambda *_: None)
        evaluate.run(paths, finished.EVALUATE, finished.SEED)
    verdict = verification.Verdict("the same, to the byte", [])
    paths.verification.write_text(verification._drawn(verdict), encoding="utf-8")
    page = browser.new_page(color_scheme=scheme)
    page.goto(paths.report.as_uri())
    shot = Image.open(io.BytesIO(page.locator("img[src='../verification.svg']").screenshot())).convert("RGB")
    (_, behind), *_ = sorted(shot.getcolors(maxcolors=1 << 24), reverse=True)
    text = max((colour for _, colour in shot.getcolors(maxcolors=1 << 24)), key=lambda one: contrast(one, behind))
    assert contrast(text, behind) >= TEXT
    page.close()
