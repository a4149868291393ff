"""What the browser does on the operator's page, and what it sees. Answers are plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict, cast

if TYPE_CHECKING:
    from playwright.sync_api import Page, Request

TAKES_FIGURES = "#parts li"


class Overview(TypedDict):
    """The overview as text."""

    status: str
    tiles: dict[str, str]
    parts: list[str]
    failures: list[str]
    transactions: list[str]
    charts: list[str]
    hosts: list[str]
    ground: str


class Walk(TypedDict):
    """What a walk through a graph by keyboard saw."""

    nodes: list[str]
    focused: list[str]
    detail: str
    near: int
    rows: int
    title: str


def ready(page: Page) -> None:
    """Wait for the first answer of the service."""
    page.wait_for_selector(TAKES_FIGURES, state="attached")


def wait_until(page: Page, condition: str) -> None:
    """Ask again until a JavaScript expression is true: the page's policy keeps Playwright from asking inside of it."""
    for _ in range(600):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise TimeoutError(condition)


def texts(page: Page, selector: str) -> list[str]:
    """Every text that is found, with its white space made one."""
    return [" ".join(text.split()) for text in page.locator(selector).all_inner_texts()]


def shoot(page: Page, path: str, *, whole: bool = False, click: str | None = None, seconds: float = 4.5) -> None:
    """Take a picture once figures have come in."""
    ready(page)
    page.wait_for_timeout(1000 * seconds)
    if click is not None and page.locator(click).count():
        page.locator(click).first.click()
        page.mouse.move(2, 2)
        page.wait_for_timeout(400)
    page.screenshot(path=path, full_page=whole)


def see_overview(page: Page, until: str | None = None) -> Overview:
    """Read the overview; ``until`` is a text that is waited for."""
    hosts: set[str] = set()

    def note(request: Request) -> None:
        hosts.add(request.url.split("/")[2])

    page.on("request", note)
    page.reload()
    ready(page)
    if until is not None:
        page.get_by_text(until).first.wait_for()
    wait_until(page, "document.querySelectorAll('#charts .line').length >= 3")
    return {
        "status": page.inner_text("#status-text"),
        "tiles": dict(zip(texts(page, ".tile h3"), texts(page, ".tile .value"), strict=True)),
        "parts": texts(page, "#parts li"),
        "failures": texts(page, "#failures li"),
        "transactions": texts(page, "#transactions tbody tr"),
        "charts": [
            str(label)
            for label in cast(
                "list[str]",
                page.locator(".plot").evaluate_all("plots => plots.map(plot => plot.getAttribute('aria-label'))"),
            )
        ],
        "hosts": sorted(hosts),
        "ground": str(page.evaluate("getComputedStyle(document.body).backgroundColor")),
    }


def look_up(page: Page, transaction: str) -> list[str]:
    """Look a transaction up by the form, first with an id that is none; returns the two answers and the address."""
    ready(page)
    page.fill("#lookup-id", "not an id")
    page.keyboard.press("Enter")
    refused = page.inner_text("#lookup-error")
    page.fill("#lookup-id", f"0x{transaction.upper()}")
    page.keyboard.press("Enter")
    page.wait_for_selector(".graph .node")
    title = page.inner_text("#transaction h1")
    page.fill("#lookup-id", "00" * 32)
    page.keyboard.press("Enter")
    page.wait_for_selector("#transaction .banner:not([hidden])")
    return [refused, " ".join(title.split()), page.inner_text("#transaction .banner"), page.url.partition("#")[2]]


def walk(page: Page) -> Walk:
    """Walk through a graph with the keyboard alone: along its lines, choose, and read."""
    page.wait_for_selector(".graph .node.completed, .graph .node.failed")
    labels = cast(
        "list[str]",
        page.locator(".graph .node").evaluate_all("nodes => nodes.map(node => node.getAttribute('aria-label'))"),
    )
    focused: list[str] = []

    def press(key: str) -> None:
        page.keyboard.press(key)
        focused.append(str(page.evaluate("document.activeElement.getAttribute('aria-label') ?? ''")))

    page.focus("#transaction h1")
    while "graph" not in str(page.evaluate("document.activeElement.closest('svg')?.getAttribute('class') ?? ''")):
        page.keyboard.press("Tab")
    press("ArrowRight")
    press("ArrowRight")
    press("ArrowLeft")
    press("Enter")
    return {
        "nodes": labels,
        "focused": focused,
        "detail": " ".join(page.inner_text(".detail").split()),
        "near": page.locator(".node.near").count(),
        "rows": page.locator("#transaction tbody tr").count(),
        "title": page.title(),
    }


def read_chart(page: Page) -> list[str]:
    """Read values of a chart out with arrow keys."""
    ready(page)
    wait_until(page, "document.querySelector('#charts .line')?.getAttribute('points').split(' ').length >= 2")
    page.locator(".plot").first.focus()
    page.keyboard.press("End")
    last = page.locator(".readout").first.inner_text()
    page.keyboard.press("ArrowLeft")
    before = page.locator(".readout").first.inner_text()
    page.keyboard.press("Escape")
    return [last, before, page.locator(".readout").first.inner_text()]


def measure_phone(page: Page) -> dict[str, object]:
    """Measure what is wider than the screen, and what is too small to be touched."""
    ready(page)
    too_small = """elements => elements.filter(element => element.checkVisibility())
        .map(element => [element.textContent.trim() || element.id, element.getBoundingClientRect()])
        .filter(([name, box]) => box.height && box.height < 40).map(([name]) => name)"""
    return {
        "overflow": page.evaluate("document.documentElement.scrollWidth - innerWidth"),
        "small": page.locator("button, input[type=search], .switch label").evaluate_all(too_small),
        "columns": page.evaluate(
            "getComputedStyle(document.getElementById('charts')).gridTemplateColumns.split(' ').length"
        ),
        "lines": page.locator(".graph .node").count(),
    }


def measure_contrast(page: Page) -> dict[str, float]:
    """Contrast by pair of colours, as WCAG 2 defines it."""
    ready(page)
    return cast(
        "dict[str, float]",
        page.evaluate("""() => {
            const probe = document.createElement('i');
            document.body.append(probe);
            const light = (name) => {
                probe.style.setProperty('color', `var(${name})`);
                const [r, g, b] = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map((part) => {
                    const share = part / 255;
                    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
                });
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const pairs = [['--on-accent', '--accent'], ['--accent', '--card'], ['--accent', '--ground']];
            for (const ground of ['--card', '--ground', '--faint']) pairs.push(['--text', ground], ['--soft', ground]);
            for (const state of ['waiting', 'ready', 'computing', 'completed', 'failed'])
                pairs.push([`--${state}`, `--${state}-ground`], [`--${state}`, '--card']);
            return Object.fromEntries(pairs.map(([one, other]) => {
                const [dark, bright] = [light(one), light(other)].sort((a, b) => a - b);
                return [`${one} on ${other}`, (bright + 0.05) / (dark + 0.05)];
            }));
        }"""),
    )


def lose_the_service(page: Page) -> list[str]:
    """See what is said when the process no longer answers, and when it does again."""
    ready(page)
    page.route("**/page/state.json*", lambda route: route.abort())
    page.locator("#status-text", has_text="Out of reach").wait_for()
    lost = page.inner_text("#banners")
    page.unroute("**/page/state.json*")
    page.locator("#status-text", has_text="Ready").wait_for()
    return [lost, page.inner_text("#banners")]


def pause(page: Page) -> list[int]:
    """Count questions while the page rests, and after it goes on."""
    ready(page)
    counted = [0, 0]
    paused = True

    def note(request: Request) -> None:
        counted[0 if paused else 1] += "state.json" in request.url

    page.wait_for_load_state("networkidle")
    page.get_by_role("button", name="Pause").click()
    page.wait_for_timeout(300)
    page.on("request", note)
    page.wait_for_timeout(5000)
    paused = False
    with page.expect_request("**/page/state.json*"):
        page.get_by_role("button", name="Go on").click()
    return counted


def read_hostile(page: Page) -> dict[str, object]:
    """Look at texts of somebody hostile, in the overview and in a transaction."""
    ready(page)
    seen = [page.inner_text("#failures"), page.inner_text("#queue"), page.inner_text("#parts")]
    page.locator("#failures a").first.click()
    page.wait_for_selector(".graph .node")
    page.locator(".node.failed").first.click()
    seen.append(page.inner_text("#transaction"))
    return {
        "seen": " ".join(" ".join(seen).split()),
        "hacked": page.evaluate("'hacked' in window"),
        "made": page.locator("main img, main script, main iframe, main b.evil, main a[href^='javascript']").count(),
    }
