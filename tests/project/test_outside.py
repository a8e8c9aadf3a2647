"What tools of others ask of the repository, where it can be checked without them."
import configparser
import re
import sys
from pathlib import Path
import pytest

if sys.version_info >= (3, 11): import tomllib
else: import tomli as tomllib

ROOT = Path(__file__).parents[2]
TOML = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_the_dependency_group_is_the_list_of_settings_ini():
    cfg = configparser.ConfigParser(interpolation=None)
    cfg.read(ROOT / "settings.ini", encoding="utf-8")
    assert TOML["dependency-groups"]["dev"] == cfg["DEFAULT"]["dev_requirements"].strip().splitlines()


def test_what_is_not_done_has_a_reason():
    reasons = TOML["tool"]["repo-review"]["ignore"]
    for check, reason in reasons.items():
        assert len(reason.split()) > 2 or reason.startswith("as ") and reason[3:] in reasons, check


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_an_action_is_named_by_its_hash(path):
    used = re.findall(r"uses:\s*([^\s,}]+)(.*)", path.read_text(encoding="utf-8"))
    assert used and all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", name) and re.search(r"# v\d+\.\d+\.\d+", rest)
                        for name, rest in used), used


def test_every_licence_that_is_named_is_there():
    reuse = tomllib.loads((ROOT / "REUSE.toml").read_text(encoding="utf-8"))
    named = {a["SPDX-License-Identifier"] for a in reuse["annotations"]}
    assert named == {p.stem for p in (ROOT / "LICENSES").glob("*.txt")} and "Apache-2.0" in named
    assert reuse["annotations"][0]["path"] == "**"
    for a in reuse["annotations"][1:]:
        for path in [a["path"]] if isinstance(a["path"], str) else a["path"]: assert list(ROOT.glob(path)), path
