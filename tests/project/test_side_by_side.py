"""The steps of `make test`, side by side: the order of needs holds, a failing step fails the whole and shows what it
said, nothing is left running."""
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

import check
from side_by_side import Step, side_by_side

posix = pytest.mark.skipif(os.name == "nt" or not shutil.which("ps"), reason="needs process groups and ps")


def python(code): return [sys.executable, "-c", code]


def ended(pid):
    "Whether a process is gone within ten seconds, or at least has ended and is not yet waited for."
    for _ in range(100):
        r = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
        if not r.stdout.strip() or r.stdout.strip().startswith("Z"): return True
        time.sleep(.1)
    return False


def noted(path, name, wait=0.0):
    "A command that writes down when it began and ended."
    return python(f"import time; f = open({str(path)!r}, 'a', 1); f.write('{name} begins\\n'); time.sleep({wait}); "
                  f"f.write('{name} ends\\n'); print('{name} speaks'); print('{name} has spoken')")


def test_needs_come_first_and_cores_are_not_overbooked(tmp_path):
    log, said = tmp_path / "log", []
    steps = dict(c=Step(noted(log, "c"), needs=("b",)), a=Step(noted(log, "a", .6)), b=Step(noted(log, "b", .6)),
                 wide=Step(noted(log, "wide"), cores=2), huge=Step(noted(log, "huge"), cores=9),
                 d=Step(noted(log, "d"), needs=("c", "not chosen today")))
    passed, failed = side_by_side(steps, 2, said.append)
    assert failed is None and passed.keys() == steps.keys() and all(s > 0 for s, _ in passed.values())
    lines = log.read_text().splitlines()
    at = {line: i for i, line in enumerate(lines)}
    assert at["b ends"] < at["c begins"] and at["c ends"] < at["d begins"]
    assert max(at["a begins"], at["b begins"]) < min(at["a ends"], at["b ends"])                   # side by side
    for alone in ("wide", "huge"): assert at[f"{alone} ends"] == at[f"{alone} begins"] + 1
    begun = set()
    for line in lines:
        name, what = line.split()
        begun = begun | {name} if what == "begins" else begun - {name}
        assert len(begun) <= 2
    for name in steps: assert f"{name} speaks\n{name} has spoken\n" in said      # whole, not mixed


def test_seconds_of_cpu_are_those_of_the_step(tmp_path):
    busy = "import time\nwhile time.process_time() < 2: pass"
    passed, _ = side_by_side(dict(idle=Step(python("import time; time.sleep(2)")), busy=Step(python(busy))), 2,
                             lambda s: None)
    if os.name != "nt": assert passed["busy"][1] > 1 > passed["idle"][1]      # 2 less what the kernel's ticks miss


@posix
def test_a_failing_step_is_shown_and_ends_the_others(tmp_path):
    said, start = [], time.time()
    child = "import time; time.sleep(300)"      # of a child, which would go on after it
    slow = python(f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {child!r}]); "
                  f"open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid)); p.wait()")
    fails = python(f"import os, sys, time\nwhile not (os.path.exists({str(tmp_path / 'pid')!r}) and "
                   f"open({str(tmp_path / 'pid')!r}).read()): time.sleep(.01)\nprint('the reason'); sys.exit(3)")
    passed, failed = side_by_side(dict(slow=Step(slow), fails=Step(fails), later=Step(python("1"), needs=("fails",))),
                                  2, said.append)
    assert failed == "fails" and not passed and any("the reason" in s for s in said) and time.time() - start < 60
    assert not any("later" in s for s in said)
    assert ended(int((tmp_path / "pid").read_text()))


def test_a_circle_of_needs_is_named():
    with pytest.raises(ValueError, match="wait for each other: a, b"):
        side_by_side(dict(a=Step(python("1"), needs=("b",)), b=Step(python("1"), needs=("a",))), 2, lambda s: None)


def test_every_step_has_its_place():
    assert sorted(check.ORDER) == sorted(check.STEPS) and set(check.HALF) <= check.STEPS.keys()
    for name, needs in check.NEEDS.items():
        for need in needs: assert check.ORDER.index(need) < check.ORDER.index(name)


FAKE = """
import os, sys, time
sys.path.insert(0, {tools!r})
import check
check.__file__, me = __file__, check
def good(): "It passes."; print("all is well")
def bad(): "It fails."; me.sh(sys.executable, "-c", "print('what went wrong'); raise SystemExit(7)")
def slow(): "It takes long."; open(__file__ + ".pid", "w").write(str(os.getpid())); time.sleep(300)
check.STEPS = dict(good=good, bad=bad, slow=slow)
check.ORDER, check.NEEDS, check.HALF = ("good", "bad", "slow"), dict(bad=("good",)), ()
check.main()
"""


@pytest.fixture
def fake(tmp_path):
    (tmp_path / "fake.py").write_text(FAKE.format(tools=str(check.ROOT / "tools")), encoding="utf-8")
    return lambda *names: [sys.executable, str(tmp_path / "fake.py"), *names]


def test_the_command_fails_with_a_failing_step_and_passes_without(fake):
    r = subprocess.run(fake("good", "bad"), capture_output=True, text=True)
    assert r.returncode == 1 and "what went wrong" in r.stdout and "failed with status 7" in r.stdout
    assert "check: bad failed" in r.stderr and re.search(r"good +\d+ s, +\d+ s of CPU", r.stdout)
    assert subprocess.run(fake("bad"), capture_output=True).returncode == 1
    r = subprocess.run(fake("good"), capture_output=True, text=True)
    assert r.returncode == 0 and re.search(r"=== good: It passes.\nall is well\n=== good: passed in \d+ s", r.stdout)
    r = subprocess.run(fake("good", "good"), capture_output=True, text=True)
    assert r.returncode == 0 and re.search(r"check: all passed in \d+ s", r.stdout)
    assert subprocess.run(fake("goood"), capture_output=True).returncode == 2


@posix
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_check_leaves_nothing_behind(fake, tmp_path, sign):
    p = subprocess.Popen(fake("good", "slow"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (tmp_path / "fake.py.pid").exists() or not (tmp_path / "fake.py.pid").read_text(): time.sleep(.05)
    p.send_signal(sign)
    rest, start = p.stdout.read(), time.time()      # ends when no process holds the pipe any more
    assert p.wait(60) == 1 and re.search("check: (interrupted|ended)", rest) and "Traceback" not in rest
    assert time.time() - start < 30
    assert ended(int((tmp_path / "fake.py.pid").read_text()))
