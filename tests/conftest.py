"What the tests share: one thread each, a small set that is drawn once, and a time after which no test is begun."
import os
import signal
import time

import pytest

# before torch is imported; sums then come out the same however many cores there are
os.environ["OMP_NUM_THREADS"] = "1"
LATE = "out of time: `make test` runs it"
LEAST = 20      # seconds that the tests get once they are collected, however slow the machine was until then


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """28 clips to train on and two tests of 14, ten frames of 32 pixels.
    The frame cache lies in it; whoever wants to write more, or none to be there, takes a copy."""
    from micacl.data.synfew.generate import generate
    root = tmp_path_factory.mktemp("synfew")
    generate(root, n_train=28, n_test=14, n_frames=10, size=32, workers=1, progress=False)
    return root


def pytest_addoption(parser):
    parser.addoption("--until", type=float, metavar="T", help="skip what is not done at this time, in seconds since "
                                                              "1970; tools/check.py quick does so")


def pytest_collection_finish(session):
    until = session.config.option.until
    if until is not None: session.config.option.until = max(until, time.time() + LEAST)


def out_of_time(*_): pytest.skip(LATE)


def limited(item):
    "Set up or run a test for as long as there is time."
    until = item.config.getoption("--until")
    if until is None: return (yield)
    left = until - time.time()
    if left <= 0: out_of_time()
    if not hasattr(signal, "setitimer"): return (yield)       # Windows: a test that was begun is finished
    before = signal.signal(signal.SIGALRM, out_of_time)
    signal.setitimer(signal.ITIMER_REAL, left)
    try: return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item): return (yield from limited(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item): return (yield from limited(item))


def pytest_terminal_summary(terminalreporter):
    late = [r for r in terminalreporter.stats.get("skipped", []) if LATE in str(r.longrepr)]
    if late: terminalreporter.write_line(f"{len(late)} tests were {LATE.replace('runs it', 'runs them')}")
