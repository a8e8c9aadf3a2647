"The documentation site: notebooks in, a folder of plain HTML out. `tools/site.py` is the way in."
