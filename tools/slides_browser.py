"""Look at every slide in Chromium: nothing overflows, every picture is there and large enough, nothing is on the
console, no request leaves the folder.

    python tools/slides.py && python tools/slides_browser.py
    ... --shots FOLDER        # a photograph of each slide, 1280 x 720
    ... --pdf FOLDER          # each deck as PDF
    ... --decks tour-long_tail.html    # only these
    ... --chromium /usr/bin/chromium   # the system's browser, not Playwright's own
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from site_browser import ROOT, served

VIEW = dict(width=1280, height=720)
# what sticks out of its slide, what is cut off or covered, what is too small to read from the last row
WRONG = """() => {
  const slide = document.querySelector('section.present .slide'), found = [], frame = slide.getBoundingClientRect();
  const name = e => e.tagName.toLowerCase() + ' ' + (e.textContent || e.alt || '').trim().slice(0, 40);
  const shown = [...slide.querySelectorAll('header, .content, .content *')].filter(
    e => !e.closest('math') && !e.closest('svg'));
  for (const e of shown) {
    const r = e.getBoundingClientRect();
    if (r.right > frame.right - 20 || r.bottom > frame.bottom - 8) found.push('sticks out: ' + name(e));
    if (e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== 'inline')
      found.push('too wide: ' + name(e));
  }
  const parts = [...slide.querySelectorAll('.content > *')];
  parts.forEach((a, i) => parts.slice(i + 1).forEach(b => {
    const p = a.getBoundingClientRect(), q = b.getBoundingClientRect();
    if (p.right > q.left + 1 && q.right > p.left + 1 && p.bottom > q.top + 1 && q.bottom > p.top + 1)
      found.push('covers: ' + name(a) + ' / ' + name(b));
  }));
  for (const m of slide.querySelectorAll('math'))
    if (m.getBoundingClientRect().right > frame.right - 20) found.push('equation too wide');
  for (const i of slide.querySelectorAll('img')) {
    const r = i.getBoundingClientRect();
    if (!i.complete || !i.naturalWidth) found.push('picture not loaded');
    else if (Math.min(r.width / i.naturalWidth, r.height / i.naturalHeight) < .7)
      found.push('picture much smaller than on its page: ' + Math.round(r.width) + ' x ' + Math.round(r.height));
    if (!i.alt) found.push('picture without words');
  }
  if (!slide.querySelector('.content').textContent.trim() && !slide.querySelector('img, svg')) found.push('empty');
  return [...new Set(found)];
}"""


def look(page, address, file, shots=None):
    "What is wrong with the slides of one deck, in words."
    wrong = []
    page.on("console", lambda m: wrong.append(f"console: {m.text[:200]}") if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: wrong.append(f"error: {str(e)[:200]}"))
    page.on("request", lambda r: wrong.append(f"leaves the folder: {r.url[:160]}")
            if not r.url.startswith((address, "data:", "blob:")) else None)
    page.goto(address + file, wait_until="load")
    page.wait_for_function("window.Reveal && Reveal.isReady()")
    n = page.evaluate("Reveal.getTotalSlides()")
    for k in range(n):
        page.evaluate(f"Reveal.slide({k})")
        page.wait_for_function("[...document.querySelectorAll('section.present img')].every(i => i.complete)")
        wrong += [f"slide {k + 1}: {w}" for w in page.evaluate(WRONG)]
        if shots: page.screenshot(path=shots / f"{Path(file).stem}-{k + 1:02d}.png")
    return n, wrong


def as_pdf(page, address, file, folder):
    page.emulate_media(media="print")      # moving pictures stand still
    page.goto(f"{address}{file}?print-pdf", wait_until="load")
    page.wait_for_function("window.Reveal && Reveal.isReady() && document.querySelector('.pdf-page')")
    page.wait_for_function("[...document.querySelectorAll('img')].every(i => i.complete)")
    pages = page.evaluate("document.querySelectorAll('.pdf-page').length")
    page.pdf(path=folder / f"{Path(file).stem}.pdf", prefer_css_page_size=True, print_background=True)
    return pages


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--slides", type=Path, default=ROOT / "_slides", metavar="FOLDER")
    p.add_argument("--decks", nargs="+", metavar="FILE")
    p.add_argument("--shots", type=Path, metavar="FOLDER")
    p.add_argument("--pdf", type=Path, metavar="FOLDER")
    p.add_argument("--chromium", metavar="PATH")
    args = p.parse_args()
    from playwright.sync_api import sync_playwright
    files = args.decks or sorted(f.name for f in args.slides.glob("*.html") if f.name != "index.html")
    if not files: sys.exit(f"slides: no decks in {args.slides}; run python tools/slides.py first")
    for folder in filter(None, (args.shots, args.pdf)): folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    with served(args.slides) as address, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=args.chromium)
        for file in files:
            page = browser.new_page(viewport=VIEW)
            n, wrong = look(page, address, file, args.shots)
            if args.pdf and (pages := as_pdf(page, address, file, args.pdf)) != n:
                wrong.append(f"the PDF has {pages} pages for {n} slides")
            page.close()
            print(f"{'FAILED' if wrong else 'ok    '} {file}: {n} slides", *wrong, sep="\n  " if wrong else "")
            failed += bool(wrong)
    print(f"slides: {len(files) - failed} decks in order, {failed} not")
    sys.exit(failed > 0)


if __name__ == "__main__": main()
