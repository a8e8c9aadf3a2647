"""Read the whole site in a real browser: wide and on a phone, light and dark, with axe-core looking for barriers.

    python tools/site.py && python tools/site_browser.py    # needs Chromium (https://playwright.dev/python), and
                                                            # pip install playwright axe-playwright-python
    ... --chromium /usr/bin/chromium                        # the system's browser, not Playwright's own
    ... --log FILE --shots FOLDER                           # a log as JSON (or markdown: .md), photographs
    ... --pages geiim.html index.html                       # only these pages

On every page: nothing on the console, no failed request and none that leaves the site, every equation and picture
visible, no sideways scrolling at 360 x 740, no violation of axe-core's rules (in dark: of those on contrast; on a
phone: of those on layout). Once: the search, the switch for dark mode, the contents on a phone.
"""
import argparse
import contextlib
import functools
import http.server
import json
import os
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).parents[1]
WIDE, PHONE = dict(width=1366, height=850), dict(width=360, height=740)
ON_A_PHONE = ["scrollable-region-focusable", "target-size", "region", "landmark-unique", "meta-viewport",
              "aria-hidden-focus"]
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
LOOK = """() => {
  const shown = e => {
    for (let d = e.closest('details'); d; d = d.parentElement.closest('details'))
      if (!d.open && !e.closest('summary')) return false;
    return true;
  };
  const small = (list, w) => list.filter(
    e => shown(e) && !(e.getBoundingClientRect().width > w && e.getBoundingClientRect().height > w));
  const maths = [...document.querySelectorAll('main math')], pictures = [...document.querySelectorAll('main img')];
  pictures.forEach(i => i.loading = 'eager');
  return {equations: maths.length, empty: small(maths, 1).map(e => e.textContent.slice(0, 60)),
          broken: document.querySelectorAll('merror').length,
          pictures: pictures.length, sideways: document.documentElement.scrollWidth - innerWidth};
}"""
WIDEST = """() => [...document.querySelectorAll('body *')]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1
               && !e.closest('pre, .scroll, .math, .output-html, nav.book, dialog'))
  .slice(0, 3).map(e => e.tagName + '.' + e.className + ' ' + e.textContent.trim().slice(0, 40))"""
LOADED = ("() => [...document.querySelectorAll('main img')].filter(i => !i.complete || !i.naturalWidth).map(i => "
          "i.getAttribute('src'))")
# A page has thousands of tokens of code and signs of equations, and axe-core needs a millisecond or two for the
# contrast of each. Contrast follows from the letter's own look and from what lies behind it: of those alike in both,
# the rule judges the first, second, fourth, eighth ... Where it has no opinion on one of them (cut off, half covered)
# it is asked about all that are alike.
LOOKS = """() => {
  const seen = new Map(), behind = new Map(), plain = {backgroundColor: 'rgba(0, 0, 0, 0)', backgroundImage: 'none',
    opacity: '1', filter: 'none', mixBlendMode: 'normal', position: 'static', clipPath: 'none', transform: 'none'};
  const around = e => {
    if (!e) return '';
    if (!behind.has(e)) {
      const s = getComputedStyle(e), own = Object.keys(plain).filter(k => s[k] !== plain[k]).map(k => k + s[k]).join();
      behind.set(e, around(e.parentElement) + (own && '|' + own));
    }
    return behind.get(e);
  };
  for (const e of document.body.querySelectorAll('*')) {
    if (![...e.childNodes].some(n => n.nodeType === Node.TEXT_NODE && n.data.trim()) || !e.checkVisibility()) continue;
    const s = getComputedStyle(e), look = [s.color, s.webkitTextFillColor, s.fontSize, s.fontWeight, s.textShadow,
      s.webkitTextStroke, !!e.closest('a'), !!e.closest('[disabled], [aria-disabled]'), around(e)].join();
    if (!seen.has(look)) seen.set(look, []);
    const n = seen.get(look).push(e);
    if (n & (n - 1)) e.dataset.alike = ''; else delete e.dataset.alike;
  }
  axe.configure({rules: [{id: 'color-contrast', selector: '*:not([data-alike])'}]});
  return [...seen.values()];
}"""
AXE = """async rules => {
  const only = rules.runOnly, contrast = only.type === 'tag' || only.values.includes('color-contrast');
  const groups = contrast ? (LOOKS)() : [], options = {...rules, resultTypes: ['violations', 'incomplete']};
  const first = await axe.run(document, options), found = first.violations;
  const open = new Set(first.incomplete.filter(v => v.id === 'color-contrast').flatMap(v => v.nodes).map(
    n => document.querySelector(n.target[0])));
  const more = groups.filter(g => g.some(e => open.has(e)) && g.some(e => 'alike' in e.dataset)).flat();
  if (more.length) {
    for (const g of groups) for (const e of g) e.dataset.alike = '';
    for (const e of more) delete e.dataset.alike;
    const again = await axe.run(document, {runOnly: {type: 'rule', values: ['color-contrast']},
                                           resultTypes: ['violations']});
    found.push(...again.violations);
  }
  return found.map(v => ({...v, nodes: v.nodes.filter(     // axe does not hear MathML
      n => !(v.id === 'empty-table-header' && document.querySelector(n.target[0] + ' math')))}))
    .filter(v => v.nodes.length).map(v => [v.id, v.impact, v.nodes.length, v.nodes.slice(0, 3).map(
      n => n.target.join(' ') + ' | ' + (n.any[0] || n.all[0] || n.none[0] || {}).message)]);
}""".replace("LOOKS", LOOKS)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass

    def handle(self):
        with contextlib.suppress(ConnectionError): super().handle()      # the browser is on another page already


@contextlib.contextmanager
def served(folder):
    "The folder on loopback; yields its address."
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f"http://127.0.0.1:{server.server_port}/"
    finally: server.shutdown()


class Reader:
    "A window of the browser that writes down what goes wrong."
    def __init__(self, browser, address, view, scheme, axe):
        self.address, self.axe, self.wrong = address, axe, []
        self.context = browser.new_context(viewport=view, color_scheme=scheme, reduced_motion="reduce",
                                           is_mobile=view is PHONE, has_touch=view is PHONE)
        self.page = self.context.new_page()
        self.page.on("console", lambda m: self.wrong.append(
            f"console: {m.text[:200]} {m.location.get('url', '')[:160]}".rstrip())
                     if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.wrong.append(f"error: {str(e)[:200]}"))
        self.page.on("requestfailed", lambda r: self.wrong.append(f"failed: {r.url[:160]}"))
        self.page.on("response", lambda r: self.wrong.append(f"{r.status}: {r.url[:160]}") if r.status >= 400 else None)
        self.page.on("request", lambda r: self.wrong.append(f"leaves the site: {r.url[:160]}")
                     if not r.url.startswith((address, "data:", "blob:")) else None)

    def open(self, url):
        self.wrong.clear()
        self.page.goto(self.address + url, wait_until="load")

    def look(self, phone):
        "What is on the page, and what is wrong with it."
        found = self.page.evaluate(LOOK)
        with contextlib.suppress(Exception): self.page.wait_for_function(f"({LOADED})().length === 0", timeout=8000)
        wrong = [*self.wrong, *(f"picture not loaded: {s}" for s in self.page.evaluate(LOADED)),
                 *(f"equation without a box: {s}" for s in found["empty"])]
        if found["broken"]: wrong.append(f"{found['broken']} equations with an error")
        if found["sideways"] > 0:
            wrong.append(f"scrolls sideways by {found['sideways']} px at {'phone' if phone else 'desktop'} size: "
                         f"{self.page.evaluate(WIDEST)}")
        return found, wrong

    def barriers(self, only=None):
        "What axe-core complains about: all its rules, or `only` some."
        self.page.evaluate(self.axe)
        rules = dict(runOnly=dict(type="rule", values=only)) if only else dict(runOnly=dict(type="tag", values=TAGS))
        return [f"axe {i} ({impact}), {n} times: {'; '.join(where)}" for i, impact, n,
                where in self.page.evaluate(AXE, rules)]


def search(reader):
    "GEIIM is found, with the keyboard and with the mouse, and the answer leads to its entry."
    p = reader.page
    reader.open("index.html")
    p.keyboard.press("/")
    p.locator("#q").fill("GEIIM")
    p.locator("#hits li").first.wait_for()
    hits = p.locator("#hits li a").evaluate_all("es => es.map(e => e.getAttribute('href'))")
    assert any(h.startswith("geiim.html") for h in hits[:3]), hits[:5]
    found = reader.barriers()
    assert not found, found
    p.keyboard.press("Enter")
    p.wait_for_url("**/geiim.html*")
    p.get_by_role("button", name="Search").click()
    p.locator("#q").fill("logit adjust")
    p.locator("#hits li").first.wait_for()
    p.locator("#hits a").first.click()
    p.wait_for_timeout(300)
    assert not p.locator("dialog.search").is_visible() and not reader.wrong, reader.wrong
    return f"GEIIM: {len(hits)} hits, first {hits[0]}"


def dark_mode(reader):
    "The switch changes the colours, and the next page remembers."
    p, paper = reader.page, "getComputedStyle(document.body).backgroundColor"
    reader.open("mccl.html")
    before = p.evaluate(paper)
    p.locator("button.theme").click()
    after = p.evaluate(paper)
    reader.open("wian.html")
    assert before != after == p.evaluate(paper), (before, after, p.evaluate(paper))
    p.evaluate("localStorage.clear()")
    return f"{before} -> {after}, remembered"


def contents(reader):
    "On a phone the contents open, lead somewhere and close."
    p = reader.page
    reader.open("geiim.html")
    assert not p.locator("#book").is_visible()
    p.get_by_role("button", name="Contents").click()
    assert p.locator("#book a[aria-current]").is_visible()
    found = reader.barriers()
    assert not found, found
    p.locator("#book").get_by_role("link", name="WIAN", exact=True).click()
    p.wait_for_url("**/wian.html")
    assert not p.locator("#book").is_visible()
    return "open, follow, close"


def copy(reader):
    "The button beside a piece of code takes it along."
    p = reader.page
    reader.open("geiim.html")
    reader.context.grant_permissions(["clipboard-read", "clipboard-write"])
    box = p.locator(".taken:visible").first
    box.hover()
    box.get_by_role("button", name="Copy this code").click()
    box.get_by_text("Copied").wait_for()
    taken, want = p.evaluate("navigator.clipboard.readText()"), box.locator("pre").inner_text().rstrip()
    assert taken == want and taken, (taken, want)
    return f"{len(taken.splitlines())} lines"


def sheet(reader):
    "A lab sheet can be downloaded as the notebook it is."
    reader.open("lab/counting.html")
    with reader.page.expect_download() as d: reader.page.get_by_role("link", name="Download this sheet").click()
    cells = json.loads(Path(d.value.path()).read_text(encoding="utf-8"))["cells"]
    assert len(cells) > 10
    return f"{d.value.suggested_filename}, {len(cells)} cells"


def old_address(reader):
    "An address of the first edition leads to the page of today."
    for old, new in (("losses.html", "longtail/losses.html"), ("api/losses.html", "api/longtail.losses.html")):
        reader.open(old)
        reader.page.wait_for_url(reader.address + new)
        reader.page.wait_for_load_state("networkidle")
    assert not reader.wrong, reader.wrong
    return f"{old} -> {new}"


def pale(reader):
    "A sign that is too pale is noticed, though it is one of thousands and stands late in the page."
    p = reader.page
    reader.open("geiim.html")
    assert not reader.barriers(only=["color-contrast"])
    # axe-core has no opinion on a single letter
    words = p.locator("pre.code span:visible").filter(has_text=re.compile(r"\w{3}"))
    words.last.evaluate("e => e.style.color = '#bbb'")
    found = reader.barriers(only=["color-contrast"])
    assert len(found) == 1 and ", 1 times" in found[0], found
    return found[0].split(":")[0]


def markdown(log):
    lines = [f"# The site in a browser\n\n{log['browser']}, axe-core {log['axe']}; {log['pages']} pages, "
             f"{log['equations']} equations, {log['pictures']} pictures; {log['seconds']} s.\n"]
    lines += [f"- {name}: {said}" for name, said in log["tried"].items()]
    lines += ["", f"{len(log['wrong'])} complaints" + (":" if log["wrong"] else "."), "",
              *(f"- {s}" for s in log["wrong"])]
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def readers(address, chromium, axe):
    "One browser with a window for every way of looking; each thread needs its own."
    from playwright.sync_api import sync_playwright
    views = (("light", WIDE, "light"), ("dark", WIDE, "dark"), ("phone", PHONE, "light"),
             ("phone, dark", PHONE, "dark"))
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try: yield {name: Reader(browser, address, view, scheme, axe) for name, view, scheme in views}
        finally: browser.close()


def read(urls, address, chromium, axe):
    "Every page wide, dark and on a phone; returns its equations, its pictures and what is wrong."
    rows = []
    with readers(address, chromium, axe) as r:
        for url in urls:
            r["light"].open(url)
            found, wrong = r["light"].look(phone=False)
            said = [("light", s) for s in wrong + r["light"].barriers()]
            r["dark"].open(url)      # the structure is the same: only colours can be wrong
            said += [("dark", s) for s in [*r["dark"].wrong, *r["dark"].barriers(only=["color-contrast",
                "link-in-text-block"])]]
            r["phone"].open(url)
            said += [("phone", s) for s in r["phone"].look(phone=True)[1] + r["phone"].barriers(only=ON_A_PHONE)]
            rows.append((found["equations"], found["pictures"], [f"{url}, {view}: {s}" for view, s in said]))
            print(".", end="", flush=True)
    return rows


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--site", type=Path, default=ROOT / "_docs", metavar="FOLDER",
                   help="the built site (default: _docs)")
    p.add_argument("--chromium", help="path of the browser (default: Playwright's own)")
    p.add_argument("--pages", nargs="*", help="only these pages, as geiim.html")
    p.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1),
                   help="browsers at a time (default: 2)")
    p.add_argument("--log", type=Path, metavar="FILE", help="what was found, as JSON or markdown")
    p.add_argument("--shots", type=Path, metavar="FOLDER", help="photographs of five typical pages")
    args = p.parse_args()
    if not (args.site / "index.html").exists():
        sys.exit(f"site_browser: {args.site}: expected a built site, found none; run python tools/site.py")
    start, axe = time.time(), (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
    urls = (args.pages or sorted(q.relative_to(args.site).as_posix() for q in args.site.rglob("*.html")
                                 if q.name != "404.html" and 'http-equiv="refresh"' not in q.read_text("utf-8")))
    log = dict(pages=len(urls), tried={}, wrong=[])
    with served(args.site) as address:
        with readers(address, args.chromium, axe) as r:
            log["browser"] = f"Chromium {r['light'].context.browser.version}"
            log["axe"] = (r["light"].page.evaluate(axe), r["light"].page.evaluate("axe.version"))[1]
            if args.shots: shots(r, args.shots)
            for f, view in () if args.pages else ((search, "light"), (dark_mode, "light"), (contents, "phone"),
                                                  (copy, "light"), (sheet, "light"), (old_address, "light"),
                                                  (pale, "light")):
                try: log["tried"][f.__name__.replace("_", " ")] = f(r[view])
                except AssertionError as e: log["wrong"].append(f"{f.__name__}: {e}")
        with ThreadPoolExecutor(args.jobs) as pool:
            rows = [row for some in pool.map(lambda k: read(urls[k::args.jobs], address, args.chromium, axe),
                                             range(args.jobs)) for row in some]
    log["equations"], log["pictures"] = sum(r[0] for r in rows), sum(r[1] for r in rows)
    log["wrong"] += sorted(s for r in rows for s in r[2])
    log["seconds"] = round(time.time() - start)
    print("\n" + markdown(log))
    if args.log:
        args.log.write_text(markdown(log) if args.log.suffix == ".md"
                            else json.dumps(log, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.exit(bool(log["wrong"]))


def shots(readers, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for url in ("index.html", "geiim.html", "findings/ablations.html", "api/index.html", "gallery.html"):
        for name, reader in readers.items():
            reader.open(url)
            reader.page.wait_for_timeout(300)
            reader.page.screenshot(path=folder / (f"{url.replace('/', '-').removesuffix('.html')}-"
                                                  f"{name.replace(', ', '-')}.png"))


if __name__ == "__main__": main()
