"""What can go wrong, done on purpose: the faults of benchmarks/faults.py and a handful of kills, with what is
expected of each."""
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the harness needs Linux")
if Path("/proc/self/stat").exists():
    import faults
    import kills
    NAMES = [f"{s.group}: {s.name}" for s in faults.SCENARIOS]
    QUICK = [f"{s.group}: {s.name}" for s in faults.SCENARIOS if not s.long]
else: NAMES = QUICK = []


def script(*words, **kw):
    "A script of its own, because a process that has computed something may not be forked."
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, env=env, capture_output=True, text=True,
                          timeout=900, **kw)


@pytest.fixture(scope="module")
def happened(tmp_path_factory):
    out = tmp_path_factory.mktemp("faults") / "faults.json"
    p = script("benchmarks/faults.py", "--quick", "--out", out)
    assert out.exists(), p.stdout[-2000:] + p.stderr[-2000:]
    return {f"{r['group']}: {r['name']}": r for r in json.loads(out.read_text())["faults"]}


@pytest.mark.parametrize("name", QUICK)
def test_a_fault_ends_as_it_should(happened, name): assert happened[name]["wrong"] == []


def test_names_are_different_and_few_are_left_out():
    assert len(NAMES) == len(set(NAMES)) and len(QUICK) > 0.6 * len(NAMES)


def test_the_published_table_is_of_all_faults_and_all_went_well():
    report = json.loads((ROOT / "results" / "faults.json").read_text())
    assert [f"{r['group']}: {r['name']}" for r in report["faults"]] == NAMES
    assert not [r for r in report["faults"] if r["wrong"]] and not any(r["outside_changed"] for r in report["faults"])
    assert all(not line.startswith("/") and "/tmp" not in line and "/work" not in line for r in report["faults"]
               for line in r["message"])


GOOD = dict(status=1, said="micacl: x: expected this, found that; mend it", seconds=1.0, memory=10.0)


@pytest.mark.parametrize("change, words", [({}, None), (dict(status=0), "status 0, expected 1"),
                                           (dict(said="micacl: it failed"), "'expected this' is not said"),
                                           (dict(seconds=99.0), "99.0 s"),
                                           (dict(memory=9999.0), "9999 MB"), (dict(said=GOOD["said"] + "\nTraceback "
                                               "(most recent call last)"), "a traceback")])
def test_the_judge_sees_what_is_wrong(change, words):
    s = SimpleNamespace(status=1, says=["expected this"], seconds=5, memory=100)
    o = SimpleNamespace(**{**GOOD, **change})
    wrong = faults.judge(s, o, o.said, {"a": 1}, {"a": 1})
    assert (wrong == []) if words is None else (len(wrong) == 1 and words in wrong[0])
    assert "['a']" in faults.judge(s, SimpleNamespace(**GOOD), GOOD["said"], {"a": 1}, {"a": 2})[0]


# ---- kills

def test_ten_kills_are_survived(tmp_path):
    p = script("benchmarks/kills.py", "--kills", "10", "--short", "--out", tmp_path / "kills.json")
    r = json.loads((tmp_path / "kills.json").read_text())
    assert p.returncode == 0 and r["kills"] == 10 and r["identical"] == r["jobs"] >= 4, p.stdout[-3000:]
    assert sum(sum(k["phases"].values()) for k in r["kinds"].values()) == 10


def test_the_comparison_sees_every_difference(tmp_path):
    for name in ("a", "b"):
        run = tmp_path / name / "run"; run.mkdir(parents=True)
        (run / "metrics.jsonl").write_text(json.dumps(dict(loss=1.5, seconds=1 if name == "a" else 2)) + "\n")
        (run / "model.safetensors").write_bytes(b"weights")
        (run / "config.json").write_text(json.dumps(dict(command=name, seed=1)))
    want = kills.made(tmp_path / "a")
    assert kills.differences(want, kills.made(tmp_path / "b")) == []
    b = tmp_path / "b" / "run"
    for spoil, name in ((lambda: (b / "metrics.jsonl").write_text('{"loss": 1.25}\n'), "~ run/metrics.jsonl"),
                        (lambda: (b / "model.safetensors").write_bytes(b"weightz"), "~ run/model.safetensors"),
                        (lambda: (b / ".x.json.abc.tmp").touch(), "+ run/.x.json.abc.tmp"),
                        (lambda: (b / "config.json").unlink(), "- run/config.json"),
                        (lambda: (b / "checkpoint.old").mkdir(), "+ run/checkpoint.old/")):
        spoil()
        assert name in kills.differences(want, kills.made(tmp_path / "b"))


def test_the_published_kills():
    r = json.loads((ROOT / "results" / "kills.json").read_text())
    assert r["kills"] >= 500 and r["identical"] == r["jobs"] and r["compared"] == r["jobs"]
    for kind, share in kills.SHARES.items():
        k = r["kinds"][kind]
        assert (k["kills"] == sum(k["phases"].values()) == sum(k["by_command"].values()) >= 0.99 * share * r["kills"]
                and len(k["phases"]) >= 2)
