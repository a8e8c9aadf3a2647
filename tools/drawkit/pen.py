"""A pen that writes SVG in the style of the book: text stays text, colours are classes, light and dark in one file.

A drawing is 360 units wide, about as wide as a phone, so a unit is a pixel there. Letters of equations stand between
dollars and look as in the text of the page: `$h^{(k)}$`, `$x_n$`."""
import re
from xml.sax.saxutils import escape

from micacl.show.plots import INK, MUTED, OKABE_ITO

WIDTH, SHOWN = 360, 420            # units of a drawing; pixels at which a wide page shows it
COLOURS = {k: OKABE_ITO[k] for k in ("blue", "vermilion", "green", "sky", "purple")}
LIGHT = dict(paper="#ffffff", ink=INK, soft="#59616c", pale="#c6c8ce")
DARK = dict(paper="#15181c", ink="#dcdfe4", soft="#a3abb6", pale="#4b525c")
SIZES = dict(text=13, head=14.5, math=16, small=12.5)     # units; 12.2 is 11 px in a column of 325 px
SANS = 'system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif'
SERIF = '"STIX Two Text",Cambria,Georgia,"Times New Roman",serif'


def neutral(c):
    "The rules that differ between light and dark."
    return (f".drawing .paper{{fill:{c['paper']};stroke:{c['pale']}}}.drawing .blank{{fill:{c['paper']}}}"
            f".drawing .gap{{stroke:{c['paper']}}}"
            f".drawing text,.drawing .ink{{color:{c['ink']}}}"
            f".drawing .soft{{color:{c['soft']}}}.drawing .pale{{color:{c['pale']}}}")


STYLE = "\n".join([
    neutral(LIGHT), f"@media (prefers-color-scheme:dark){{{neutral(DARK)}}}",
    f".drawing text{{font:{SIZES['text']}px {SANS};fill:currentColor}}",
    f".drawing .head{{font-size:{SIZES['head']}px;font-weight:600}}.drawing .bold{{font-weight:600}}",
    f".drawing .italic,.drawing .upright{{font-family:{SERIF};font-size:{SIZES['math']}px}}",
    ".drawing .italic{font-style:italic}",
    f".drawing .small{{font-size:{SIZES['small']}px}}",
    f".drawing .grey{{color:{MUTED}}}" + "".join(f".drawing .{k}{{color:{v}}}" for k, v in COLOURS.items()),
    ".drawing .tint{fill:currentColor;fill-opacity:.16;stroke:currentColor;stroke-width:1.5}"
    ".drawing .line{fill:none;stroke:currentColor;stroke-width:1.6}.drawing .solid{fill:currentColor}"
    ".drawing .frame{fill:none;stroke:currentColor;stroke-width:2.4}.drawing .dash{stroke-dasharray:4 3}"
    ".drawing .gap{fill:none;stroke-width:6}"])


def number(v):
    "A coordinate in a file: at most two digits behind the point."
    s = f"{v:.2f}".rstrip("0").rstrip(".")
    return "0" if s == "-0" else s


def letters(tex):
    "The letters of an equation -> [text, classes, shift] in order; `_` and `^` lower and raise what follows."
    runs = []
    for level, group, single in re.findall(r"([_^]?)(?:\{([^}]*)\}|(.))", tex):
        small, shift = (" small", 5 if level == "_" else -6) if level else ("", 0)
        for run in re.findall(r"[^\W\d_]+|[\d\W_]+", group or single):
            look = ("italic" if run.isalpha() else "upright") + small
            if runs and runs[-1][1:] == [look, shift]: runs[-1][0] += run
            else: runs.append([run, look, shift])
    return runs


class Drawing:
    "Elements of one drawing, in the order in which they are painted."
    def __init__(self, doc, height):
        "The first paragraph of the doc is the title, the second the description."
        title, desc = (" ".join(part.split()) for part in doc.split("\n\n"))
        self.title, self.desc, self.height, self.parts = title.rstrip("."), desc, height, []

    def svg(self):
        "The file: title and description for those who listen, one style, a sheet of paper and what was drawn."
        size = f'width="{SHOWN}" height="{round(self.height * SHOWN / WIDTH)}" viewBox="0 0 {WIDTH} {self.height}"'
        return "\n".join([
            f'<svg xmlns="http://www.w3.org/2000/svg" class="drawing" role="img" {size}>',
            f"<title>{escape(self.title)}</title>", f"<desc>{escape(self.desc)}</desc>", f"<style>\n{STYLE}\n</style>",
            f'<rect class="paper" x=".5" y=".5" width="{WIDTH - 1}" height="{self.height - 1}" rx="9"/>',
            *self.parts, "</svg>", ""])

    def put(self, tag, look, inside=None, **attrs):
        named = "".join(f' {k.replace("_", "-")}="{number(v) if isinstance(v, (int, float)) else v}"'
                        for k, v in attrs.items() if v is not None)
        end = "/>" if inside is None else f">{inside}</{tag}>"
        self.parts.append(f'<{tag}{f" class={chr(34)}{look}{chr(34)}" if look else ""}{named}{end}')

    # --- words
    def text(self, x, y, words, look="", at="start"):
        "A line of text; `at` is start, middle or end. What stands between dollars is set as an equation."
        inside, down, before = "", 0, ""
        for k, part in enumerate(words.split("$")):
            for run, classes, shift in (letters(part) if k % 2 else [(part, "", 0)] if part else []):
                where = f' class="{classes}"' if classes else ""
                if shift != down: where += f' dy="{number(shift - down)}"'
                if shift * down < 0:      # an index stands under the exponent
                    where += f' dx="{number(-sum(6.2 if c.isdigit() else 5 for c in before))}"'
                inside += f"<tspan{where}>{escape(run)}</tspan>" if where else escape(run)
                down, before = shift, run
        self.put("text", look, inside, x=x, y=y, text_anchor=None if at == "start" else at)

    def lines(self, x, y, *words, look="", at="start", step=17):
        for k, w in enumerate(words): self.text(x, y + k * step, w, look, at)

    # --- shapes
    def box(self, x, y, w, h, look, r=7): self.put("rect", look, x=x, y=y, width=w, height=h, rx=r)

    def ring(self, x, y, r, look): self.put("circle", look, cx=x, cy=y, r=r)

    def stroke(self, path, look="line ink", width=None):
        self.put("path", look, d=path, style=None if width is None else f"stroke-width:{number(width)}")

    def named(self, x, y, w, h, look, name, *words):
        "A part of the network: a box with its name, and below it what it does."
        self.box(x, y, w, h, f"tint {look}")
        top = y + h / 2 + 5 - 9 * len(words)
        self.text(x + 11, top, name, "bold")
        self.lines(x + 11, top + 18, *words, look="soft", step=19)

    # --- arrows
    def arrow(self, *points, look="ink", width=1.6, size=7, dash="", round_=8):
        "Along straight lines with rounded corners; the head ends in the last point."
        (x1, y1), (x0, y0) = points[-1], points[-2]
        n = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** .5
        ux, uy = (x1 - x0) / n, (y1 - y0) / n
        path, stop = [*points[:-1], (x1 - ux * size * .8, y1 - uy * size * .8)], f"M{xy(points[0])}"
        for a, b, c in zip(path, path[1:], path[2:]):
            stop += f"L{xy(toward(b, a, round_))}Q{xy(b)} {xy(toward(b, c, round_))}"
        self.stroke(stop + f"L{xy(path[-1])}", f"line {look}{dash}", width)
        self.head(x1, y1, ux, uy, look, size)

    def arc(self, start, one, two, end, look="ink", width=1.6, size=7):
        "A cubic curve with a head."
        n = ((end[0] - two[0]) ** 2 + (end[1] - two[1]) ** 2) ** .5
        ux, uy = (end[0] - two[0]) / n, (end[1] - two[1]) / n
        stop = (end[0] - ux * size * .8, end[1] - uy * size * .8)
        self.stroke(f"M{xy(start)}C{xy(one)} {xy(two)} {xy(stop)}", f"line {look}", width)
        self.head(*end, ux, uy, look, size)

    def head(self, x, y, ux, uy, look, size):
        a, b = x - ux * size, y - uy * size
        self.put("path", f"solid {look}", d=f"M{xy((x, y))}L{xy((a - uy * size / 2, b + ux * size / 2))}"
                                            f"L{xy((a + uy * size / 2, b - ux * size / 2))}Z")

    # --- tables of numbers
    def table(self, x, y, values, w, h, look="ink"):
        "A matrix as cells; the larger a value from 0 to 1, the darker its cell."
        for i, row in enumerate(values):
            for j, v in enumerate(row):
                if v: self.put("rect", f"solid {look}", x=x + j * w, y=y + i * h, width=w, height=h, opacity=shade(v))
        rows, cols = len(values), len(values[0])
        lines = "".join(f"M{xy((x, y + i * h))}h{number(cols * w)}" for i in range(rows + 1))
        lines += "".join(f"M{xy((x + j * w, y))}v{number(rows * h)}" for j in range(cols + 1))
        self.stroke(lines, f"line {look}", 1)

    def bars(self, x, y, values, w, gap, height, look="vermilion"):
        "Bars that stand on the line y."
        for k, v in enumerate(values):
            self.put("rect", f"solid {look}", x=x + k * (w + gap), y=y - v * height, width=w, height=v * height)
        self.stroke(f"M{xy((x - 2, y))}h{number(len(values) * (w + gap) - gap + 4)}", "line ink", 1)

    def sign(self, x, y, what, look="ink", r=9):
        "A small circle with + or × in it."
        self.ring(x, y, r, "blank"); self.ring(x, y, r, f"line {look}")
        a = r * .5 if what == "+" else r * .38
        self.stroke(f"M{xy((x - a, y))}h{number(2 * a)}M{xy((x, y - a))}v{number(2 * a)}" if what == "+" else
                    f"M{xy((x - a, y - a))}l{xy((2 * a, 2 * a))}M{xy((x - a, y + a))}l{xy((2 * a, -2 * a))}",
                    f"line {look}")

    def mark(self, x, y, kind, r=6, look="solid"):
        "The sign of a class: colour and shape, as in the figures of the book."
        colour = ("blue", "vermilion", "green")[kind]
        if kind == 0: return self.ring(x, y, r, f"{look} {colour}")
        a = r * (.9 if kind == 1 else 1.25)
        path = f"M{xy((x - a, y - a))}h{number(2 * a)}v{number(2 * a)}h{number(-2 * a)}Z" if kind == 1 else \
               f"M{xy((x, y - a))}L{xy((x + a, y))}L{xy((x, y + a))}L{xy((x - a, y))}Z"
        self.put("path", f"{look} {colour}", d=path)


def shade(v): return round(.7 * v, 2)


def xy(p): return f"{number(p[0])} {number(p[1])}"


def toward(a, b, far):
    "The point `far` from a on the way to b, or half the way if that is nearer."
    n = ((b[0] - a[0]) ** 2 + (b[1] - a[1]) ** 2) ** .5
    f = min(far, n / 2) / n
    return a[0] + (b[0] - a[0]) * f, a[1] + (b[1] - a[1]) * f
