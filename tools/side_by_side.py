"""Commands side by side, each as soon as what it needs is done and cores are free; tools/check.py uses it.

What a command prints is shown whole when it ends. The first that fails ends the others.
"""
import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Step:
    "A command, the cores that it keeps busy, and the steps that must have passed before it."
    command: list
    cores: int = 1
    needs: tuple = ()


def stop(job, patience=10):
    "End a command and its children: asked first, so that they can tidy up, then killed."
    if os.name == "nt": return job.kill()
    for sign, wait in ((signal.SIGINT, patience), (signal.SIGKILL, None)):
        try: os.killpg(job.pid, sign)      # the group may outlive the command
        except ProcessLookupError: return
        try: job.wait(wait)
        except subprocess.TimeoutExpired: pass


def side_by_side(steps, cores, say=lambda line: print(line, flush=True)):
    """Run all steps, the first ones first: {name: (seconds, seconds of CPU)} of those that passed, and the name of the
    one that failed or None."""
    waiting, running, passed = dict(steps), {}, {}
    with tempfile.TemporaryDirectory(prefix="check-") as folder:
        try:
            while waiting or running:
                for name, s in list(waiting.items()):
                    free = cores - sum(steps[n].cores for n in running)
                    ready = all(n in passed for n in s.needs if n in steps)
                    if ready and (s.cores <= free or not running):
                        with open(Path(folder) / name, "wb") as out:
                            job = subprocess.Popen(s.command, stdin=subprocess.DEVNULL, stdout=out,
                                                   stderr=subprocess.STDOUT, start_new_session=True)
                        running[name] = job, time.time()
                        del waiting[name]
                        say(f"--- {name}: started; at work: {', '.join(running)}")
                if not running: raise ValueError(f"steps that wait for each other: {', '.join(waiting)}")
                time.sleep(.05)
                for name, (job, start) in list(running.items()):
                    before = os.times()
                    if job.poll() is None: continue
                    cpu = sum(os.times()[2:4]) - sum(before[2:4])      # of this command: it has just been waited for
                    say((Path(folder) / name).read_text(encoding="utf-8", errors="replace"))
                    if job.returncode: return passed, name
                    passed[name] = time.time() - start, cpu
                    del running[name]
        finally:
            for job, _ in running.values(): stop(job)
    return passed, None
