"""`python -m micacl` is the command `micacl`."""
import sys

from .cli import main

if __name__ == "__main__": sys.exit(main())
