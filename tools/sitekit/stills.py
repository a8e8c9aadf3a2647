"""Still pictures of the figures with sliders, for readers without a kernel: run those pages, keep what their widgets
show at first.

    python tools/sitekit/stills.py              # every page with a widget, some minutes; pages that did not change are skipped
    python tools/sitekit/stills.py nbs/07_geiim.ipynb     # only these

The site takes the pictures from tools/sitekit/stills/; where one is missing, it says in words what the figure shows.
"""
import base64
import hashlib
import io
import json
import sys
from pathlib import Path

STILLS, NBS = Path(__file__).resolve().parent / "stills", Path(__file__).resolve().parents[2] / "nbs"
VIEW = "application/vnd.jupyter.widget-view+json"


def index_of(path):
    "The file that says which still belongs to which cell of a notebook; the stills lie beside it."
    inside = path.resolve().relative_to(NBS) if path.resolve().is_relative_to(NBS) else path.name
    return (STILLS / inside).with_suffix(".json")


def has_widget(cell):
    return cell.cell_type == "code" and any(VIEW in o.get("data", {}) for o in cell.get("outputs", []))


def slides(cell): return cell.cell_type == "code" and ("@interact" in cell.source or "interact(" in cell.source)


def print_of(path):
    """Of the code of a notebook.
    It stands beside the stills; where it differs, they are out of date, and the site says so."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return hashlib.sha256("".join("".join(c["source"]) for c in cells
                                  if c["cell_type"] == "code").encode()).hexdigest()[:16]


def picture(model, state):
    "The first PNG under a widget: what an Output shows, or an Image."
    found = state.get(model, {}).get("state", {})
    for o in found.get("outputs", ()):
        if "image/png" in o.get("data", {}): return base64.b64decode(o["data"]["image/png"])
    if found.get("_model_name") == "ImageModel":
        for b in state[model].get("buffers", ()):
            if b["path"] == ["value"]: return base64.b64decode(b["data"])
    for child in found.get("children", ()):
        if data := picture(str(child).removeprefix("IPY_MODEL_"), state): return data


def take(path):
    "Run one page; write its stills, and which cell each belongs to."
    import nbformat                         # these two are not needed where the site only reads the stills
    from nbclient import NotebookClient
    from PIL import Image
    stamp, index = print_of(path), index_of(path)
    old = json.loads(index.read_text()) if index.exists() else {}
    if old.get("code") == stamp: return "unchanged"
    nb = nbformat.read(path, 4)
    want = {c.id for c in nb.cells if has_widget(c) or slides(c)}
    NotebookClient(nb, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    state = nb.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    for name in old.values(): (index.parent / name).unlink(missing_ok=True)
    index.parent.mkdir(parents=True, exist_ok=True)
    found = dict(code=stamp)
    for c in nb.cells:
        model = (next((o["data"][VIEW]["model_id"] for o in c.get("outputs", []) if VIEW in o.get("data", {})), None)
                 if c.id in want else None)
        if not model or not (data := picture(model, state)): continue
        buffer, name = io.BytesIO(), f"{path.stem}-{c.id}.webp"
        Image.open(io.BytesIO(data)).convert("RGB").save(buffer, "WEBP", lossless=True, quality=80, method=6)
        (index.parent / name).write_bytes(buffer.getvalue())
        found[c.id] = name
    index.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    return f"{len(found) - 1} stills"


def main():
    import nbformat
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from sitekit.book import notebooks, sources
    wanted = [Path(s).resolve() for s in sys.argv[1:]]
    pages = wanted or [*notebooks(), *sources(NBS / "lab" / "student")]
    for path in pages:
        if any(has_widget(c) for c in nbformat.read(path, 4).cells): print(path.name, take(path), flush=True)


if __name__ == "__main__": main()
