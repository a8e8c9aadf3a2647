"""The lowest versions that settings.ini allows are real ones: `make lowest` installs exactly them and runs tests there.

Elsewhere the same test says whether what is installed satisfies them."""
import configparser
import os
import re
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INI = configparser.ConfigParser(interpolation=None, delimiters=["="])
INI.read(ROOT / "settings.ini", encoding="utf-8")
CORE = [s.strip() for s in INI["DEFAULT"]["requirements"].strip().splitlines()]


def numbers(text):
    "1.26.0+cu124 -> (1, 26): the numbers of a release, without zeros at its end."
    parts = [int(x) for x in re.match(r"\d+(?:\.\d+)*", text)[0].split(".")]
    while parts and not parts[-1]: parts.pop()
    return tuple(parts)


def test_versions_are_compared_by_their_numbers():
    assert numbers("1.26.0+cu124") == numbers("1.26") < numbers("1.26.1") < numbers("2.0.0rc1") == (2,)


@pytest.mark.parametrize("line", CORE, ids=lambda s: re.split(r"\W*>=", s)[0])
def test_what_is_installed_is_not_below_the_bound(line):
    found = re.fullmatch(r"([\w-]+)>=([\d.]+)", line)
    assert found, f"expected NAME>=VERSION, found {line}"
    name, lowest = found.groups()
    assert numbers(version(name)) >= numbers(lowest)
    if os.environ.get("MICACL_LOWEST"):          # set by `make lowest`
        assert numbers(version(name)) == numbers(lowest), "a bound that nobody tries: no such version for this Python"


def test_ci_tries_the_lowest_versions_with_the_oldest_python():
    text = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    job = re.search(r"(?ms)^  lowest:\n(.*?)(?=^  \w+:\n|\Z)", text)[1]
    assert f'python-version: "{INI["DEFAULT"]["min_python"]}"' in job and "run: make lowest" in job
    rule = re.search(r"(?ms)^lowest: .*?\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"))[1]
    assert "MICACL_LOWEST=1" in rule and "$(CORE_TESTS)" in rule


def test_the_tests_of_make_lowest_are_there():
    names = re.search(r"(?m)^CORE_TESTS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"))[1].split()
    assert len(names) >= 10 and not [n for n in names if not list(ROOT.glob(n))]
    assert "tests/project/test_lowest.py" in names


def test_ci_has_every_python_that_is_promised():
    promised = re.search(r'for v in \((.*?)\)', (ROOT / "setup.py").read_text(encoding="utf-8"))[1]
    promised = [v for v in re.findall(r'"([\d.]+)"', promised) if v != "3"]
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    tried = set(re.findall(r'python(?:-version)?: "([\d.]+)"', workflow))
    assert promised[0] == INI["DEFAULT"]["min_python"] and tried == set(promised)
