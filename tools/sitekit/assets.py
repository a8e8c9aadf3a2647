"""Pictures as files with names made from what they hold: the same picture is stored once, and a browser may keep it
for ever."""
import base64
import hashlib
import html
import io
import re

from PIL import Image

KINDS = {"image/png": "png", "image/jpeg": "jpg", "image/gif": "gif", "image/webp": "webp", "image/svg+xml": "svg"}


def inlined(drawing, alt):
    """A drawing of tools/drawkit as a part of the page: its dark rules follow the reader's choice before the system's,
    and whoever listens hears the alt text."""
    def choice(m):
        rules = lambda where: m[1].replace(".drawing", f":root{where} .drawing")
        return (f'@media (prefers-color-scheme:dark){{{rules(":not([data-theme=light])")}}}\n'
                + rules("[data-theme=dark]"))
    drawing = re.sub(r"<(title|desc)>.*?</\1>\n", "", drawing, flags=re.S)
    drawing = re.sub(r"@media \(prefers-color-scheme:dark\)\{(.*)\}", choice, drawing)
    return drawing.strip().replace(' role="img"', f' role="img" aria-label="{html.escape(alt)}"', 1)


def webp(im, **how):
    "A picture as bytes."
    buffer = io.BytesIO()
    im.save(buffer, "WEBP", **how)
    return buffer.getvalue()


class Assets:
    def __init__(self, out):
        self.folder, self.sizes = out / "img", {}
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(self, data, kind):
        """Bytes -> (url from the root of the site, width, height). A PNG becomes a lossless WebP where that is smaller;
        a large one that is mostly shaded faces a lossy one, which is far smaller."""
        key = hashlib.sha256(data).hexdigest()[:12]
        if key in self.sizes: return self.sizes[key]
        size, ext = (None, None), KINDS[kind]
        if ext != "svg":
            im = Image.open(io.BytesIO(data))
            size = im.size
            if ext == "png" and not getattr(im, "is_animated", False):
                im = im.convert("RGBA" if "A" in im.getbands() or "transparency" in im.info else "RGB")
                small = webp(im, lossless=True, quality=100, method=4)     # of effort
                if len(small) > 2**14 and len(lossy := webp(im, quality=90, method=4)) < .8 * len(small): small = lossy
                if len(small) < len(data): data, ext = small, "webp"
        name = f"{key}.{ext}"
        (self.folder / name).write_bytes(data)
        self.sizes[key] = (f"img/{name}", *size)
        return self.sizes[key]

    def add_base64(self, text, kind): return self.add(base64.b64decode("".join(text)), kind)

    def still(self, data):
        "The first frame of a moving picture."
        im = Image.open(io.BytesIO(data))
        im.seek(0)
        buffer = io.BytesIO()
        im.convert("RGB").save(buffer, "PNG")
        return self.add(buffer.getvalue(), "image/png")

    def move_data_uris(self, source, root):
        "Pictures inside HTML become files."
        def swap(m): return f"{root}{self.add_base64(m[2], m[1])[0]}" if m[1] in KINDS else m[0]
        return re.sub(r"data:(image/[\w+.-]+);base64,([A-Za-z0-9+/=\s]+)", swap, source)
