"""The page in a real browser: it connects, shows what is live, says what is old, and comes back. Skipped without Chromium."""

import re
import time

import pytest

import browser
from browser import Page
from fault_engine import ok
from harness import until
from tokens import SECRET, token

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium here (apt-get install chromium)")

WELL = "document.querySelector('#verdict > .live')"
OLD = "document.querySelector('#verdict > .stale')"
CARDS = "Object.fromEntries([...document.querySelectorAll('section.card')].map(n => [n.querySelector('h2').innerText, n.innerText]))"


POOLS = {"pools": [{"name": "tank", "state": "ONLINE", "size": 4000, "allocated": 1000, "free": 3000}]}
DISKS = {"disks": [{"name": "sda", "path": "/dev/sda", "model": "WDC WD40EFRX", "size": 4000787030016, "type": "hdd",
                    "temperature": 34, "in_use": True}]}


@pytest.fixture
def cluster(make_cluster, engine):
    engine.set("storage.pools.list", ok(POOLS))
    engine.set("storage.disks.list", ok(DISKS))
    return make_cluster(engine)


@pytest.fixture
def page(cluster):
    with cluster.v1("system.status", "agent.status", "storage.update") as client:
        for topic in ("system.status", "agent.status", "storage.update"):
            client.wait(topic)
    with Page(f"http://127.0.0.1:{cluster.edge.port}/") as page:
        page.until(WELL)
        yield page


def test_the_page_shows_live_values_goes_stale_with_the_engine_and_comes_back(page, cluster, engine):
    until(lambda: {"System", "Storage pools", "Disks", "Agents", "Circuit breakers"} <= set(page.evaluate(CARDS)),
          what="every card is there")
    cards = page.evaluate(CARDS)
    assert "CPU" in cards["System"] and "live" in cards["System"]
    assert page.text("#verdict h2") == "All is well"
    messages = "parseInt(document.querySelector('#counts').innerText.match(/\\d+/)[0])"
    seen = page.evaluate(messages)
    page.until(f"{messages} > {seen}")
    before = re.search(r"CPU\s+(\S+ %)", cards["System"])[1]
    engine.refuse()
    page.until(OLD)
    page.until("document.querySelectorAll('section.card.stale').length >= 3")
    said = page.text("#verdict")
    assert "The engine does not answer" in said and "System" in said and re.search(r"\d+ s old", said), said
    card = page.evaluate(CARDS)["System"]
    assert "stale" in card and before in card, "the last good figure stays"
    age = "parseInt(document.querySelector('#verdict').innerText.match(/(\\d+) s old/)[1])"
    old = page.evaluate(age)
    page.until(f"{age} > {old}")
    engine.listen()
    page.until(WELL)
    assert page.evaluate("document.querySelectorAll('section.card.stale').length") == 0
    assert page.problems == []
    origin = f"127.0.0.1:{cluster.edge.port}/"
    assert page.requests and all(re.fullmatch(rf"(http|ws)://{re.escape(origin)}.*|data:,", url) for url in page.requests), \
        "nothing is loaded from elsewhere"


def test_without_its_edge_the_page_keeps_what_it_knows_and_connects_again(page, cluster):
    cluster.edge.kill()
    page.until(OLD)
    assert "No connection to this edge" in page.text("#verdict")
    assert "CPU" in page.evaluate(CARDS)["System"]
    cluster.edge.start()
    page.until(WELL, 30)
    assert page.text("#connection") == "connected"


def test_what_happened_while_its_edge_was_away_is_among_the_recent_events(page, cluster):
    def note(*words):
        cluster.publish(({"type": "note", "data": {"word": word}} for word in words), "--origin", "script")

    def shown():
        return re.findall(r"note Word (\w+)", " ".join(page.text("ol.events").split()))
    note("before")
    page.until("document.querySelector('ol.events')")
    until(lambda: shown() == ["before"])
    for n in (1, 2):
        cluster.edge.kill()
        page.until(OLD)
        note(f"away{n}", f"further{n}")
        cluster.edge.start()
        page.until(WELL, 30)
    note("after")
    until(lambda: "after" in shown())
    assert shown() == ["after", "further2", "away2", "further1", "away1", "before"], "each once, the newest first"


def test_an_edge_without_a_broker_says_so(make_cluster, engine):
    cluster = make_cluster(engine, start=False)
    cluster.edge.start(ready=False)
    until(lambda: cluster.edge.readiness(), what="the edge answers")
    with Page(f"http://127.0.0.1:{cluster.edge.port}/") as page:
        page.until(OLD)
        assert "This edge has no broker" in page.text("#verdict")
        assert page.problems == []


def test_a_page_that_needs_a_token_asks_for_it_and_says_when_it_is_wrong(make_cluster, engine):
    cluster = make_cluster(engine, auth_options={"required": True, "secret": SECRET, "first_message_timeout": "1s"})
    with Page(f"http://127.0.0.1:{cluster.edge.port}/") as page:
        asked = "document.activeElement.id === 'token' && !document.querySelector('#access').hidden"
        page.until(asked + " && /A token is needed/.test(document.querySelector('#verdict').innerText)")
        assert page.text("label[for=token]") == "Token"
        for text, wait in ((token("admin", lasts=-60), asked + " && /expired/.test(document.querySelector('#verdict').innerText)"),
                           (token("admin"), WELL)):
            page.call("Input.insertText", {"text": text})
            page.press("Enter", text="\r")
            page.until(wait)
        assert page.evaluate("document.querySelector('#access').hidden")
        shown = page.evaluate("document.documentElement.outerHTML")
        assert "eyJ" not in shown, "it is nowhere on the page"


def test_a_method_that_the_engine_lacks_is_no_fault(make_cluster, engine):
    cluster = make_cluster(engine, polls=["system.status", "no.such.method"])
    with Page(f"http://127.0.0.1:{cluster.edge.port}/") as page:
        page.until(WELL)
        page.until(f"{CARDS}['Not offered by this engine']")
        assert page.evaluate("document.querySelectorAll('.down').length") == 0


def test_a_broken_pool_comes_before_everything_else(make_cluster, engine):
    engine.set("storage.pools.list", ok({"pools": [{**POOLS["pools"][0], "state": "FAULTED"}]}))
    cluster = make_cluster(engine)
    with Page(f"http://127.0.0.1:{cluster.edge.port}/") as page:
        page.until("document.querySelector('#verdict > .down')")
        assert "Storage pool tank is FAULTED" in page.text("#verdict")


def test_markup_in_a_value_is_shown_as_text(make_cluster, engine):
    hostile = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"
    engine.set("storage.pools.list", ok({"pools": [{**POOLS["pools"][0], "name": hostile, "state": hostile}]}))
    cluster = make_cluster(engine)
    cluster.publish([{"type": hostile.replace(" ", "/"), "key": hostile, "kind": "state", "data": {hostile: hostile}}])
    with Page(f"http://127.0.0.1:{cluster.edge.port}/") as page:
        page.until("document.body.innerText.includes('onerror=')")
        assert page.evaluate("document.querySelectorAll('img').length") == 0
        assert page.evaluate("document.title") != "owned"


# Layout and access ----------------------------------------------------------------------------------------------------
GAPS = """[...document.querySelectorAll('#columns > div')].map(column => [...column.children].map((card, i) =>
  i === 0 ? 0 : card.getBoundingClientRect().top - column.children[i - 1].getBoundingClientRect().bottom)).flat()"""


@pytest.mark.parametrize("width,columns", [(400, 1), (800, 2), (1200, 3), (1600, 3)])
def test_cards_fill_the_width_without_holes(page, width, columns):
    page.resize(width)
    page.until(f"document.querySelectorAll('#columns > div').length === {columns}")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    gaps = page.evaluate(GAPS)
    assert all(gap == 0 or abs(gap - 16) < 1 for gap in gaps), gaps
    assert page.evaluate("[...document.querySelectorAll('#columns > div')].every(column => column.children.length)")


CONTRAST = """(() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (c) => c.slice(0, 3).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = (node) => { for (; node; node = node.parentElement) {
    const c = rgb(getComputedStyle(node).backgroundColor); if (c.length < 4 || c[3] === 1) return c; } return [255, 255, 255]; };
  const poor = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !node.checkVisibility() || node.closest('script, noscript, .hidden')) continue;
    const a = light(rgb(getComputedStyle(node).color)), b = light(behind(node));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) poor.push(node.outerHTML.slice(0, 80) + ' ' + ratio.toFixed(2));
  }
  return poor;
})()"""


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_can_be_read_whatever_the_scheme_and_state(page, engine, dark):
    page.resize(1200, dark=dark)
    assert page.evaluate(CONTRAST) == []
    engine.refuse()
    page.until(OLD)
    assert page.evaluate(CONTRAST) == []


def test_the_page_can_be_used_by_keyboard_and_screen_reader(page, engine):
    nameless = """[...document.querySelectorAll('section, input, button, [role=img], [tabindex]')].filter(n =>
      !(n.getAttribute('aria-label') || n.getAttribute('aria-labelledby') || n.labels?.length || n.innerText?.trim())).map(n => n.outerHTML)"""
    assert page.evaluate(nameless) == []
    assert page.evaluate("document.documentElement.lang") == "en"
    page.press("Tab")
    page.until("document.activeElement.tagName === 'SUMMARY'")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    name = page.evaluate("document.activeElement.innerText")
    page.press("Enter", text="\r")
    page.until("document.activeElement.parentElement.open")
    seen = page.evaluate("performance.now()")
    page.until(f"performance.now() > {seen} + 600")  # The cards are built anew meanwhile.
    assert page.evaluate("document.activeElement.innerText") == name, "the focus stays where it is"
    assert page.evaluate("document.activeElement.parentElement.open")


def test_a_screen_reader_hears_of_changes_only_and_not_of_every_age(page, engine):
    page.evaluate("""window.heard = [];
      new MutationObserver(() => heard.push(document.querySelector('#announce').innerText)).observe(
        document.querySelector('#announce'), {childList: true}); 0""")
    live = "document.querySelectorAll('[aria-live], [role=status], [role=alert]').length"
    assert page.evaluate(live) == 2, "the connection, and the announcements"
    began = time.monotonic()
    for _ in range(2):
        engine.refuse()
        page.until(OLD)
        engine.listen()
        page.until(WELL)
    engine.refuse()  # What has passed when its turn comes is not said: this one is waited for.
    page.until("heard.length && !/All is well/.test(heard.at(-1))", 20)
    engine.listen()
    page.until("/All is well/.test(heard.at(-1))", 20)
    heard = page.evaluate("heard")
    assert len(heard) <= 1 + (time.monotonic() - began) / 5, heard
    assert not any("s old" in text for text in heard)
