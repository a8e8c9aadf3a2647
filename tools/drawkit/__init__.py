"The schematics of the book: a pen that writes SVG, and the drawings. tools/drawings.py writes them to nbs/images."
