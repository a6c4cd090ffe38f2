"""The page of a replay as a browser sees it, opened from disk: no network, plots of every joint, keyboard, small screens, no script.

The pages are those that tests/report writes into target/tmp/report when the Rust tests run.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

PAGES = Path(__file__).parents[2] / "target/tmp/report"
JOINTS = [
    f"{side}_{joint}"
    for side in ("left", "right")
    for joint in ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
]
EVERY = ["different", "same", "recorded", "untested", "hostile"]
WITH_COMMANDS = ["different", "same", "recorded"]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    found = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no chromium: apt-get install chromium")
    with playwright.sync_playwright() as api:
        launched = api.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser):
    """Opens a page in a context of its own and watches it: whatever it asks for or complains about fails the test."""
    contexts, trouble = [], []

    def opened(name: str, width: int = 1280, height: int = 900, **options):
        file = PAGES / name / "index.html"
        assert file.is_file(), f"{file} is not there: cargo test --release --test report writes it"
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: trouble.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
        page.on("requestfailed", lambda request: trouble.append(f"failed: {request.url[:80]}"))
        page.on("console", lambda message: trouble.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.goto(file.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert trouble == []


@pytest.mark.parametrize("name", EVERY)
def test_the_page_loads_itself_and_nothing_else(open_page, name):
    page = open_page(name)
    loaded = page.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [url for url in loaded if not url.startswith("data:")] == []
    assert page.locator("h1").count() == 1
    pictures = page.locator("img")
    for index in range(pictures.count()):
        assert pictures.nth(index).evaluate("image => image.complete && image.naturalWidth") > 100
        assert pictures.nth(index).get_attribute("alt")
    assert pictures.count() == (3 if name == "different" else 0)


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_every_joint_has_its_curves(open_page, name):
    page = open_page(name)
    figures = page.locator("figure.joint")
    assert [figures.nth(index).get_attribute("data-joint") for index in range(figures.count())] == JOINTS
    for curve in ["now"] if name == "recorded" else ["now", "baseline"]:
        boxes = page.eval_on_selector_all(
            f"figure.joint .commands path.{curve}",
            "paths => paths.map(path => [path.getBoundingClientRect().width, path.getBoundingClientRect().height, path.getTotalLength()])",
        )
        assert len(boxes) == len(JOINTS)
        for width, height, length in boxes:
            assert width > 200 and height > 10 and length > 500


def test_a_difference_is_drawn_where_it_is(open_page):
    page = open_page("different")
    outside = page.eval_on_selector_all("figure.joint.is-outside", "figures => figures.map(figure => figure.dataset.joint)")
    assert outside == ["left_shoulder", "left_elbow", "right_elbow"]
    assert page.locator("figure.joint.is-outside .difference path.outside").count() == len(outside)
    # Three more joints differ within the tolerance: a curve of the difference, nothing marked.
    assert page.locator("figure.joint .difference path.delta").count() == 6
    assert page.locator("figure.joint:not(.is-outside) path.outside").count() == 0
    assert open_page("same").locator("figure.joint .difference").count() == 0


def test_the_verdict_comes_first_and_names_everything(open_page):
    page = open_page("different")
    assert page.locator("h1").inner_text().endswith("Different")
    facts = dict(zip(page.locator(".facts dt").all_inner_texts(), page.locator(".facts dd").all_inner_texts(), strict=True))
    sentence = page.locator(".sentence").first.inner_text()
    chunk, row = re.fullmatch(r"chunk (\d+), row (\d+)", facts["In"]).groups()
    for part in (facts["Stamp"], facts["Joint"], f"row {row} of chunk {chunk}", facts["Baseline"], facts["This run"], facts["Allowed"]):
        assert part in sentence
    assert "Camera" in page.locator(".sentence").nth(1).inner_text() or "camera" in page.locator(".sentence").nth(1).inner_text()
    assert page.locator("h1").bounding_box()["y"] < 200
    words = {"same": "Same", "recorded": "Recorded", "untested": "Not tested"}
    for name, word in words.items():
        assert open_page(name).locator("h1").inner_text().endswith(word)


def test_tab_reaches_every_control_in_order_and_shows_where_it_is(open_page):
    page = open_page("different", reduced_motion="reduce")
    wanted = page.evaluate(
        """() => [...document.querySelectorAll('a[href], button:enabled, input, summary, [tabindex="0"]')]
            .filter(element => element.checkVisibility()).map((element, index) => { element.dataset.order = index; return index; })"""
    )
    reached = []
    for _ in wanted:
        page.keyboard.press("Tab")
        order, outline, box = page.evaluate(
            """() => { const element = document.activeElement, style = getComputedStyle(element), box = element.getBoundingClientRect();
                return [Number(element.dataset.order), style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
                        box.width > 0 && box.bottom > 0 && box.top < innerHeight && box.left >= 0]; }"""
        )
        reached.append(order)
        assert outline and box, f"control {order}"
    assert reached == wanted
    assert len(wanted) > 15


def test_the_skip_link_skips(open_page):
    page = open_page("different")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "verdict"


def test_arrow_keys_step_through_the_chunks(open_page):
    page = open_page("different")
    said = page.locator(".navigator output")
    page.keyboard.press("ArrowRight")
    assert said.inner_text().startswith("Chunk 0, 1 of 12")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert said.inner_text().startswith("Chunk 1, 2 of 12")
    assert page.locator(".chunks tr[aria-current]").count() == 1
    assert page.locator(".chunks tr[aria-current] th").inner_text() == "1"
    bars = page.locator(".chart rect.chosen")
    assert bars.count() >= len(JOINTS)
    assert all(bars.nth(index).get_attribute("visibility") == "visible" for index in range(bars.count()))
    # Values at that chunk are read out for those who have no pointer.
    assert "now" in page.locator("figure.joint .read").first.inner_text()
    button = page.get_by_role("button", name="Next that differs")
    button.focus()
    page.keyboard.press("Enter")
    assert said.inner_text().startswith("Chunk 4, 5 of 12") and "model actions" in said.inner_text()
    page.keyboard.press("Escape")
    assert page.locator(".chunks tr[aria-current]").count() == 0
    # In a field the keys belong to the field.
    page.locator(".filter input").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".chunks tr[aria-current]").count() == 0
    assert "←" in page.locator("#about").inner_text()


def test_joints_are_filtered_by_name_and_by_tolerance(open_page):
    page = open_page("different")
    shown = lambda: page.locator("figure.joint:visible").count()
    page.locator(".filter input").focus()
    page.keyboard.type("GRIPPER")
    assert shown() == 2
    assert page.locator(".filter output").inner_text() == "2 of 14 joints"
    page.locator(".filter input").fill("")
    page.locator(".filter button[data-show=outside]").focus()
    page.keyboard.press("Space")
    assert shown() == 3
    page.locator(".filter button[data-show=all]").click()
    assert shown() == len(JOINTS)


def test_hovering_reads_the_values_that_the_verdict_names(open_page):
    page = open_page("different")
    facts = dict(zip(page.locator(".facts dt").all_inner_texts(), page.locator(".facts dd").all_inner_texts(), strict=True))
    svg = page.locator(".close-up svg")
    svg.scroll_into_view_if_needed()
    box = svg.bounding_box()
    low, high = map(float, svg.get_attribute("data-across").split())
    share = (float(facts["Bag time"].split()[0]) - low) / (high - low)
    page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
    page.wait_for_function("document.querySelector('.close-up .read').textContent.includes('now')")
    said = page.locator(".close-up .read").inner_text()
    for title, fact in [("baseline", "Baseline"), ("now", "This run")]:
        value = float(re.search(rf"{title} (-?[\d.]+)", said).group(1))
        assert value == pytest.approx(float(facts[fact].split()[0]), abs=2e-3)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(open_page, name, scheme):
    page = open_page(name, width=360, height=740, color_scheme=scheme)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
    assert page.evaluate("document.body.scrollWidth") <= 360


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_accessibility_checker_finds_nothing(open_page, name, scheme):
    """axe-core's rules of WCAG 2 and its own: contrast, names, landmarks, headings."""
    page = open_page(name, color_scheme=scheme)
    found = axe.Axe().run(page).response["violations"]
    assert [(rule["id"], [node["html"][:100] for node in rule["nodes"]]) for rule in found] == []


def test_everything_is_there_without_a_script(open_page):
    page = open_page("different", java_script_enabled=False)
    assert page.locator("h1").inner_text().endswith("Different")
    assert page.locator("figure.joint:visible").count() == len(JOINTS)
    assert page.locator(".chunks tbody tr").count() == 12
    for control in (".filter", ".navigator"):
        assert not page.locator(control).is_visible(), "a control that does nothing is not shown"


def test_pictures_have_a_text_that_stands_for_them(open_page):
    page = open_page("different")
    unnamed = page.eval_on_selector_all("svg[role=img]", "all => all.filter(svg => svg.getAttribute('aria-label').length < 20).length")
    silent = page.eval_on_selector_all("svg:not([role=img])", "all => all.filter(svg => svg.getAttribute('aria-hidden') !== 'true').length")
    assert (unnamed, silent) == (0, 0)


def test_names_of_a_bag_are_text_and_nothing_else(open_page):
    page = open_page("hostile")
    assert page.evaluate("window.hacked") is None
    assert page.locator("main script, main iframe, main b.injected").count() == 0
    assert "<script>" in page.locator("main").inner_text()


def test_paper_has_no_controls_and_whole_tables(open_page):
    page = open_page("different")
    page.emulate_media(media="print")
    for control in (".filter", ".navigator", "nav"):
        assert not page.locator(control).is_visible()
    assert page.locator(".chunks .scroll").evaluate("box => box.scrollHeight <= box.clientHeight + 1")
    assert len(page.pdf()) > 20_000


def test_motion_is_left_out_where_it_is_not_wanted(open_page):
    page = open_page("different", reduced_motion="reduce")
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    assert page.evaluate("document.getAnimations().length") == 0


def test_ten_minutes_open_fast(open_page):
    start = time.monotonic()
    page = open_page("long")
    opened = time.monotonic() - start
    assert page.locator(".chunks tbody tr").count() == 1200
    assert opened < 5, f"{opened:.1f} s"
    start = time.monotonic()
    page.keyboard.press("ArrowRight")
    assert page.locator(".navigator output").inner_text().startswith("Chunk 0, 1 of 1200")
    assert time.monotonic() - start < 2
