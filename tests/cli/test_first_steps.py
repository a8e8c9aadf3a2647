"Every line that README.md and the page of first steps tell a newcomer to type is one that the command understands."
import json
import re
from pathlib import Path

import pytest

from micacl import cli
from micacl.core import MicaclError

ROOT = Path(__file__).parents[2]


def lines_of(text):
    "The commands in the blocks of a text for a terminal, without their comments, from `micacl` on."
    typed = (s.split(" # ")[0].strip() for block in re.findall(r"```(?:sh|bat)\n(.*?)```", text, re.S)
             for s in block.splitlines())
    found = (re.search(r"(?:^|(?:bin|Scripts)[\\/])micacl (.+)|-m micacl\.cli (.+)", s) for s in typed)
    return [m[1] or m[2] for m in found if m]


def page():
    cells = json.loads((ROOT / "nbs" / "library" / "start.ipynb").read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


README, START = lines_of((ROOT / "README.md").read_text(encoding="utf-8")), lines_of(page())


def test_there_are_lines():
    assert "demo" in README and len(START) > 15
    assert lines_of("```sh\n.venv/bin/micacl check D  # look\ntorchrun -m micacl.cli train D\n```\nmicacl demo") == [
        "check D", "train D"]


@pytest.mark.parametrize("line", [*README, *START])
def test_a_line_is_understood(line):
    command = cli._parse(line.split())
    assert cli.COMMANDS[line.split()[0]] is type(command)


def test_a_line_that_is_wrong_would_be_noticed():
    for line in ("train D", "check", "train D --out R --loss balanced_sofmax", "synfew D --trian 3"):
        with pytest.raises((SystemExit, MicaclError)): cli._parse(line.split())
