"""Draw the schematics of the book.

    python tools/drawings.py     # writes nbs/images/*.svg
"""
from pathlib import Path

from drawkit.drawings import DRAWINGS

OUT = Path(__file__).parents[1] / "nbs" / "images"


def main():
    for name, draw in DRAWINGS.items():
        (OUT / f"{name}.svg").write_text(draw().svg(), encoding="utf-8", newline="\n")
        print(f"nbs/images/{name}.svg: {(OUT / f'{name}.svg').stat().st_size / 1000:.1f} KB")


if __name__ == "__main__": main()
