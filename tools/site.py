"""Build the documentation site from the notebooks: their text, code and saved outputs, and the docments of the modules.
No page is run.

    python tools/site.py                # into _docs/
    python tools/site.py --out FOLDER

What it needs stands in tools/sitekit/requirements.txt; the site itself needs no network and no server: open
_docs/index.html.
"""
import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from sitekit.book import ROOT
from sitekit.build import build


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, default=ROOT / "_docs", metavar="FOLDER",
                   help="where the site goes (default: _docs)")
    args = p.parse_args()
    start = time.perf_counter()
    try: found, problems, notes = build(args.out)
    except (OSError, ValueError) as e: sys.exit(f"site: {e}")
    for s in [*problems, *notes]: print("site:", s)
    print(f"site: {args.out}: " + ", ".join(f"{v} {k}" for k,
                                            v in found.items()) + f", {time.perf_counter() - start:.1f} s")
    sys.exit(bool(problems))


if __name__ == "__main__": main()
