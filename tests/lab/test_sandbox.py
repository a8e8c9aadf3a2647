"The border: values cross it whole, bounds hold, and what is inside sees nothing outside."

import json
import os
import sys
import time

import numpy as np
import psutil
import pytest

from micacl.lab import sandbox
from micacl.lab.sandbox import ENCLOSURES, Bounds, Ended, Sandbox, decode, encode, protection, works

HERE = [e for e in ENCLOSURES if works(e)]
BWRAP = pytest.mark.skipif("bwrap" not in HERE, reason="bubblewrap is not here, or not allowed")
SECONDS = 90  # a busy machine must not look like an endless loop


def box(enclosure, **bounds):
    return Sandbox(Bounds(**{"seconds": SECONDS, **bounds}), enclosure, ["numpy"])


def run(b, source, name="<cell 1>"):
    return b.ask(dict(do="cell", name=name, source=source))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        -1.5,
        float("inf"),
        "text",
        np.eye(3),
        np.array(2),
        np.float64(0.5),
        np.array([True]),
        np.zeros((0, 4), np.int16),
        np.arange(6.0).reshape(2, 3).T,
        (1, (2, np.ones(2))),
        {"a": np.ones(1)},
    ],
)
def test_values_cross_as_they_are(value):
    back = decode(json.loads(json.dumps(encode(value))))
    same = lambda a, b: np.array_equal(a, b) and np.asarray(a).dtype == np.asarray(b).dtype
    flat = lambda v: (
        [w for x in v for w in flat(x)] if isinstance(v, tuple) else [*v.values()] if isinstance(v, dict) else [v]
    )
    assert all(same(a, b) for a, b in zip(flat(value), flat(back), strict=True))


def test_tensors_cross_and_what_is_no_number_does_not():
    import torch

    x = torch.randn(2, 3, requires_grad=True)
    back = decode(json.loads(json.dumps(encode(x))))
    assert torch.equal(back, x.detach()) and not back.requires_grad
    for odd in (object(), np.array(["a"]), 1j, torch.zeros(2, dtype=torch.bfloat16), np.array([object()])):
        assert type(decode(json.loads(json.dumps(encode(odd))))) is object


@pytest.mark.parametrize(
    "lie",
    [
        {"array": ["<f8", [10**12], ""]},
        {"array": ["<f8", [-1], ""]},
        {"array": ["|O", [1], "AAAAAAAAAAA="]},
        {"array": ["<f8", [1.5], "AAAAAAAAAAA="]},
        {"array": ["<f8", [1]]},
        {"pickle": "x"},
        {"plain": []},
        {"array": ["<f16", [1], "AAAA"]},
        {},
        {"a": 1, "b": 2},
        {"array": ["<f8", [1], "!"]},
    ],
)
def test_lies_about_values_are_errors(lie):
    with pytest.raises((ValueError, TypeError, KeyError)):
        decode(lie)


@pytest.mark.parametrize("enclosure", HERE)
def test_bounds_hold_in_every_enclosure_and_nothing_is_left(enclosure):
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    with box(enclosure) as b:
        folder = b.inside.folder
        assert run(b, "x = 1; print('spam' * 10 ** 6)") == {}
        assert run(b, "raise ValueError('no\\nway')")["error"] == [
            "ValueError",
            "no\nway",
            "raise ValueError('no\\nway')",
        ]
        assert run(b, "raise SystemExit(3)")["error"][0] == "SystemExit"
        assert run(b, "import micacl.lab.sandbox, os; os.chdir('/')") == {}
        start = time.time()
        with pytest.raises(Ended, match="took more than 2 s"):
            b.ask(dict(do="cell", name="<cell 2>", source="while True: pass"), 2)
        assert time.time() - start < 60
        with pytest.raises(Ended, match="took more than 2 s"):
            run(b, "x = 2")
    assert not os.path.exists(folder) and {p.pid for p in psutil.Process().children(recursive=True)} <= before


@pytest.mark.parametrize("enclosure", HERE)
def test_too_much_memory_ends_the_worker_or_is_an_error_in_it(enclosure):
    with box(enclosure, memory=500) as b:
        try:
            said = run(b, "kept = []\nwhile True: kept.append(bytearray(2 ** 24))")["error"][0]
        except Ended as e:
            said = str(e)
    assert said in ("MemoryError", "used more than 500 MB of memory")


@pytest.mark.parametrize("enclosure", HERE)
@pytest.mark.parametrize(
    "source, words",
    [
        ("import os; os._exit(0)", "ended its process"),
        ("import ctypes; ctypes.string_at(0)", "ended its process"),
        (
            "import os\nfor fd in range(3, 30):\n    try: os.write(fd, b'gibberish\\n')\n    except OSError: pass",
            "no answer",
        ),
        (
            "import os\nfor fd in range(3, 30):\n    try: os.write(fd, b'[' * 9999 + b'\\n')\n    except OSError: pass",
            "no answer",
        ),
    ],
)
def test_what_ends_or_talks_nonsense_is_named(enclosure, source, words):
    with box(enclosure) as b, pytest.raises(Ended, match=words):
        run(b, source)


def test_an_answer_without_end_is_cut_off(monkeypatch):
    monkeypatch.setattr(Sandbox, "answer_bytes", 2**16)
    source = (
        "import os\nfor fd in range(3, 30):\n    try:\n        while True: os.write(fd, b'a' * 4096)\n"
        "    except OSError: pass"
    )
    with box(HERE[0]) as b, pytest.raises(Ended, match="far too long"):
        run(b, source)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_children_end_with_the_worker():
    with box(HERE[0]) as b:
        run(b, "import os, time\nif os.fork() == 0:\n    time.sleep(1e4)")
        below = psutil.Process(b.inside.process.pid).children(recursive=True)
        assert below
    gone, alive = psutil.wait_procs(below, timeout=10)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


@BWRAP
def test_a_fork_bomb_is_bounded_by_the_kernel():
    bomb = (
        "import os, time\nn = 0\ntry:\n    while n < 500:\n        if os.fork() == 0: time.sleep(1e4)\n        n += 1\n"
        "except OSError: pass\nassert n < 40, n"
    )
    with box("bwrap", processes=32) as b:
        try:
            assert run(b, bomb) == {}
        except Ended as e:
            assert "processes" in str(e) or "memory" in str(e)


@BWRAP
@pytest.mark.parametrize(
    "source",
    [
        "import socket; socket.create_connection(('127.0.0.1', PORT), 3)",
        "import os; os.listdir(HOME)",
        "open(ANSWERS)",
        "import micacl.lab.counting",
        "import os; os.kill(PARENT, 0)",
        "import os; os.setuid(0)",
        "open('/usr/x', 'w')",
        "import os; os.unlink(CHECKER)",
        "open('big', 'wb').write(bytes(2 ** 29))",
    ],
)
def test_inside_bubblewrap_there_is_nothing_to_take(source, tmp_path):
    import socket

    (tmp_path / "mine").write_text("x")
    lab = sandbox.PACKAGE / "lab"
    with socket.create_server(("127.0.0.1", 0)) as server, box("bwrap") as b:
        for name, value in dict(
            PORT=server.getsockname()[1],
            HOME=str(tmp_path),
            ANSWERS=str(lab / "counting.py"),
            PARENT=os.getpid(),
            CHECKER=str(lab / "checker.py"),
        ).items():
            source = source.replace(name, repr(value))
        assert run(b, source)["error"][0] in (
            "OSError",
            "FileNotFoundError",
            "PermissionError",
            "ModuleNotFoundError",
            "ProcessLookupError",
            "ConnectionRefusedError",
        )
    assert (tmp_path / "mine").read_text() == "x"


def test_tokens_are_not_passed_on(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    with box(HERE[0]) as b:
        assert run(b, "import os; assert not [k for k, v in os.environ.items() if v == 's3cret'], os.environ") == {}


def test_protection_says_less_of_weaker_enclosures():
    full, middle, plain = (protection(e, "linux") for e in ENCLOSURES)
    assert full["answers"] == full["your files"] == "out of sight" and middle["network"] == "none"
    assert plain["network"] == "open" and protection("plain", "win32")["processes"] == "watched"
    assert full.keys() == middle.keys() == plain.keys() and works("plain") and not works("nothing of the kind")
