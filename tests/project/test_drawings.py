"""The schematics of the book: drawn by tools/drawkit, kept in nbs/images, shown by markdown cells of the pages.

What they say is held to the library; how they look is held to the style of the book: colours, sizes, light and dark."""
import functools
import inspect
import json
import re
import xml.etree.ElementTree as ET

import pytest

from drawkit import contrast, network, pen
from drawkit.drawings import DRAWINGS
from sitekit.assets import inlined
from sitekit.book import NBS, ROOT, notebooks

SVG = "{http://www.w3.org/2000/svg}"
COLUMN = 325        # pixels that a page leaves to a picture on a phone of 360
each_drawing = pytest.mark.parametrize("name", DRAWINGS)
file_of = lambda name: NBS / "images" / f"{name}.svg"
text_of = lambda name: file_of(name).read_text(encoding="utf-8")


@each_drawing
def test_the_file_is_what_the_pen_draws(name):
    assert text_of(name) == DRAWINGS[name]().svg(), "python tools/drawings.py draws it anew"


@each_drawing
def test_it_stands_alone_and_does_nothing(name):
    "No script, no link, nothing from elsewhere; a title and a description for those who listen."
    root = ET.fromstring(text_of(name))
    assert root.get("viewBox").split()[2] == str(pen.WIDTH) and root.get("role") == "img"
    assert root[0].tag == SVG + "title" and len(root[0].text) > 5
    assert root[1].tag == SVG + "desc" and 150 <= len(root[1].text) <= 700
    tags = {e.tag.removeprefix(SVG) for e in root.iter()}
    assert tags <= {"svg", "title", "desc", "style", "rect", "circle", "ellipse", "path", "text", "tspan"}
    assert not [k for e in root.iter() for k in e.attrib if k.startswith("on") or "href" in k or k == "id"]
    assert not re.search(r"url\(|@import|@font-face|https?://(?!www\.w3\.org/2000/svg)", text_of(name))


def rules(css):
    "{selector: declarations}, one selector at a time."
    return {one.strip(): body for many, body in re.findall(r"([^{}]+)\{([^{}]*)\}", css) for one in many.split(",")}


@each_drawing
def test_colours_are_those_of_the_book_in_light_and_in_dark(name):
    root = ET.fromstring(text_of(name))
    css, known = root.find(SVG + "style").text, {*pen.COLOURS.values(), pen.MUTED, *pen.LIGHT.values(),
                                                 *pen.DARK.values()}
    assert set(re.findall(r"#[0-9a-fA-F]{3,8}\b", text_of(name))) <= known
    used = {d.split(":")[1] for d in re.findall(r"(?:color|fill|stroke):[^;}]+", css)}
    assert used <= {*known, "none", "currentColor"}
    for e in root.iter():       # elements take their colours from classes alone, and no class is unknown
        assert not {"fill", "stroke", "color"} & e.attrib.keys() and re.fullmatch(r"(stroke-width:[\d.]+)?",
                                                                                  e.get("style", ""))
        assert all(c == "drawing" or f".{c}{{" in css or f".{c}," in css for c in e.get("class", "").split()), e.attrib
    light, _, rest = css.partition("@media (prefers-color-scheme:dark){")
    dark, neutral = rules(rest.split("\n")[0]), rules(light)
    assert dark.keys() == neutral.keys() and {".drawing text", ".drawing .paper", ".drawing .soft"} <= dark.keys()
    assert not set(re.findall("#[0-9a-f]+", str(dark))) & set(pen.LIGHT.values())


def contrast_of(a, b):
    "WCAG's ratio of two colours."
    def luminance(colour):
        parts = [int(colour[k:k + 2], 16) / 255 for k in (1, 3, 5)]
        r, g, b = (v / 12.92 if v <= .04045 else ((v + .055) / 1.055) ** 2.4 for v in parts)
        return .2126 * r + .7152 * g + .0722 * b
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + .05) / (low + .05)


@pytest.mark.parametrize("theme", [pen.LIGHT, pen.DARK], ids=["light", "dark"])
def test_words_and_marks_can_be_seen(theme):
    assert contrast_of(theme["ink"], theme["paper"]) > 10 and contrast_of(theme["soft"], theme["paper"]) > 4.5
    for mark in ("blue", "vermilion", "green"): assert contrast_of(pen.COLOURS[mark], theme["paper"]) > 3, mark


# --- words
@functools.cache
def font(serif, size):
    "matplotlib's own fonts: wider than those of most systems."
    import matplotlib
    from PIL import ImageFont
    name = "DejaVuSerif-Italic" if serif else "DejaVuSans"
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}.ttf", int(8 * size))


def size_of(classes):
    if "small" in classes: return pen.SIZES["small"]
    return pen.SIZES["math" if {"italic", "upright"} & set(classes) else "head" if "head" in classes else "text"]


def pieces(text):
    "(words, classes, dx, dy) of a line, in order."
    own = text.get("class", "").split()
    yield text.text, own, 0., 0.
    for e in text:
        yield e.text, e.get("class", "").split() or own, float(e.get("dx", 0)), float(e.get("dy", 0))
        yield e.tail, own, 0., 0.


def extents(name):
    "(words, left, top, right, bottom) of each line of text."
    for t in ET.fromstring(text_of(name)).iter(SVG + "text"):
        w, high, low, y, bold = 0., 0., 0., 0., 1.07 if {"bold", "head"} & {*t.get("class", "").split()} else 1
        for words, classes, dx, dy in pieces(t):
            w, y, size = w + dx, y + dy, size_of(classes)
            w += font(bool({"italic", "upright"} & {*classes}), size).getlength(words or "") / 8 * bold
            if words: high, low = min(high, y - .72 * size), max(low, y + .2 * size)
        x, down = float(t.get("x")), float(t.get("y"))
        left = x - {"start": 0, "middle": w / 2, "end": w}[t.get("text-anchor", "start")]
        yield "".join(t.itertext()), left, down + high, left + w, down + low


@each_drawing
def test_words_lie_on_the_paper_and_not_on_each_other(name):
    height, found = float(ET.fromstring(text_of(name)).get("viewBox").split()[3]), list(extents(name))
    assert len(found) > 8
    for words, left, top, right, bottom in found:
        assert left > 4 and right < pen.WIDTH - 3 and top > 4 and bottom < height - 3, (words, left, top, right, bottom)
    for k, a in enumerate(found):
        for b in found[k + 1:]:
            assert min(a[3], b[3]) < max(a[1], b[1]) or min(a[4], b[4]) < max(a[2], b[2]) + 1, (a, b)


@each_drawing
def test_words_can_be_read_on_a_phone(name):
    sizes = [float(v) for v in re.findall(r"font(?:-size)?:([\d.]+)px", text_of(name))]
    assert len(sizes) == 4 and min(sizes) * COLUMN / pen.WIDTH > 11
    assert "font-size=" not in text_of(name)


# --- the pages that show them
def shown():
    "(page, source of the cell, alt text, name) for every drawing in a page."
    for page in notebooks():
        for c in json.loads(page.read_text(encoding="utf-8"))["cells"]:
            if c["cell_type"] != "markdown": continue
            for alt, name in re.findall(r"!\[([^\]]*)\]\((?:\.\./)*images/(\w+)\.svg\)", "".join(c["source"])):
                yield page, "".join(c["source"]), alt, name


def test_every_drawing_is_shown_with_words_of_its_own():
    found = list(shown())
    assert {name for *_, name in found} == set(DRAWINGS)
    for page, source, alt, name in found:
        assert 60 <= len(alt) <= 300 and alt[0].isupper() and alt.endswith("."), (page.name, name)
        assert re.search(r"\*What to notice:\*", source), (page.name, name)
    assert len({(page, alt) for page, _, alt, _ in found}) == len(found)


TEX = dict(α=r"\alpha", γ=r"\gamma", μ=r"\mu", σ=r"\sigma", τ=r"\tau", ĉ=r"\hat c", ĥ=r"\hat h")


def test_letters_are_those_of_the_page():
    "The glossary explains them for that page; the tour alone shows the road before its letters mean anything."
    import test_notation
    for page, _, _, name in shown():
        t = "".join(e.text for e in ET.fromstring(text_of(name)).iter(SVG + "tspan") if "italic" in e.get("class", ""))
        found = {TEX.get(letter, letter) for letter in t}
        known = set().union(*(x.letters for x in test_notation.LINES if page.stem[:2] in x.pages))
        assert found and (page.stem == "00_tour" or found <= known), (page.name, name, found - known)


@each_drawing
def test_on_the_site_it_follows_the_switch(name):
    "A part of the page: the reader's choice of light or dark comes before the system's."
    source, alt = text_of(name), 'A "drawing" <of> one thing & another.'
    made = inlined(source, alt)
    assert 'role="img" aria-label="A &quot;drawing&quot; &lt;of&gt; one thing &amp; another."' in made
    assert "<title>" not in made and "<desc>" not in made
    css = re.search(r"<style>(.*?)</style>", made, re.S)[1]
    system = re.search(r"@media \(prefers-color-scheme:dark\)\{(.*)\}\n", css)
    before, after = css[:system.start()], css[system.end():]
    assert all(s.startswith(".drawing ") for s in rules(before))
    assert all(s.startswith(":root:not([data-theme=light]) .drawing ") for s in rules(system[1]))
    chosen = {s: body for s, body in rules(after).items() if s.startswith(":root")}
    assert [s.split(" .drawing ")[1] for s in chosen] == [s.split(".drawing ")[1] for s in rules(before)]
    assert all(s.startswith(":root[data-theme=dark] .drawing ") for s in chosen)
    assert list(chosen.values()) == list(rules(system[1]).values()) != list(rules(before).values())


@each_drawing
def test_no_rule_of_the_site_reaches_into_it(name):
    "Numbers in code have the class `m`, for one: a drawing uses no class that the site gives a look."
    own = {c for e in ET.fromstring(text_of(name)).iter() for c in e.get("class", "").split()}
    css = (ROOT / "tools/sitekit/static/site.css").read_text(encoding="utf-8")
    assert not own & set(re.findall(r"\.([a-z][\w-]*)", css)), own


# --- what they say
def test_the_numbers_of_the_graph_are_those_of_the_library():
    torch = pytest.importorskip("torch")
    from micacl.geiim import propagate
    A, x = torch.tensor(network.A), torch.tensor([0., 0, 1, 0])
    torch.testing.assert_close(A.sum(1), torch.ones(4))
    for h, want in zip(network.hops(x.tolist(), 2), propagate(x[None, :, None], A, network.ALPHA, 2)):
        torch.testing.assert_close(torch.tensor(h), want[0, :, 0])
    assert abs(sum(network.WEIGHTS) - 1) < 1e-9


def test_the_pairs_and_weights_are_those_of_the_library():
    torch = pytest.importorskip("torch")
    from micacl.mccl import category_weights
    from micacl.nn.contrast import pairs
    for columns in (contrast.BATCH, [*contrast.BATCH, 0, 1, 2]):
        P, others = pairs(torch.tensor(contrast.BATCH), torch.tensor(columns))
        assert contrast.signs(columns) == (2 * P.long() - others.long()).tolist()
    torch.testing.assert_close(torch.tensor(contrast.category_weights(contrast.COUNTS), dtype=torch.float64),
                               category_weights(contrast.COUNTS))


def test_sizes_and_defaults_are_those_of_the_library():
    pytest.importorskip("torch")
    from micacl.geiim import GEIIM
    from micacl.mccl import MCCL
    from micacl.models import MICACL
    default = lambda f, name: inspect.signature(f).parameters[name].default
    assert (default(MICACL, "n_instances"), default(MICACL, "instance_length")) == (network.N, 4)
    assert (default(MICACL, "heads"), default(MICACL, "tail")) == (8, "norm") and "8 heads" in text_of("tail")
    assert default(GEIIM, "alpha") == network.ALPHA and tuple(default(MCCL, "scales")) == (1, 2, 4)
    assert re.findall(r"kernel (\d)", text_of("geiim_scales")) == [str(k) for k in default(GEIIM, "kernels")]
