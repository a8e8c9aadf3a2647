"""Are the tests strong? Small mistakes are put into a module one at a time, and its tests must notice each of them.

    pip install -r tools/mutants-requirements.txt         # mutmut (its operators), libcst, coverage
    python tools/mutants.py --out results/mutants.json    # all modules of the table below
    python tools/mutants.py geiim wian --work FILE        # these; FILE keeps what is known when the run is ended
    python tools/mutants.py data.rows --sample 200        # of each module so many, drawn with --seed
    python tools/mutants.py --list wian                   # the mutants alone

A **mutant** is the module with one change that an operator of mutmut makes: `+` becomes `-`, `<` becomes `<=`, a
number grows by 1, an argument is left out. It is **killed** if a test fails. pytest collects the tests once, in one
process. For each mutant a copy of this process is made (`os.fork`), which puts the changed code into the loaded
function and runs those tests that reach the changed lines, the fastest first, until one fails. So a mutant costs a
fraction of a second, and it needs Linux or macOS.

What is no code of the method is left out and counted: see `zone`. A survivor that no test can kill stands with its
reason in tools/mutants-equivalent.toml, under module, function, and the changed lines before and after.
Checks on the pages of the book are not counted: what only a page notices is a survivor here.
"""
import argparse
import ast
import collections
import importlib
import inspect
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"      # before torch is imported: a process with one thread can be copied

import pytest

try: import tomllib
except ImportError: import tomli as tomllib      # Python 3.10

ROOT = Path(__file__).resolve().parents[1]
REASONS = ROOT / "tools" / "mutants-equivalent.toml"
PROPERTIES = "method/test_properties.py"
LISTS = ("data/test_list_faults.py", "data/test_load.py", "data/test_paths.py", PROPERTIES)
# the tests of a module, in tests/
MODULES = {
    "geiim": ("method/test_geiim.py", "method/test_composition.py"),
    "wian": ("method/test_wian.py",),
    "mccl": ("method/test_mccl.py",),
    "metrics": ("method/test_metrics.py", "method/test_labels.py"),
    "longtail.losses": ("longtail/test_losses.py", "method/test_labels.py"),
    "longtail.samplers": ("longtail/test_samplers.py", "method/test_labels.py", PROPERTIES),
    "longtail.bcl": ("longtail/test_bcl.py", "method/test_labels.py"),
    "nn.contrast": ("nn/test_contrast.py", "method/test_mccl.py", "longtail/test_bcl.py", "method/test_labels.py"),
    "data.bags": ("data/test_bags.py", PROPERTIES),
    "models": ("method/test_models.py", "method/test_composition.py", "method/test_labels.py"),
    "data.readers": ("data/test_readers.py", *LISTS),
    "data.rows": ("data/test_rows.py", *LISTS),
}
# tests that work in processes of their own, which hold no mutant, and long ones: a score without them is the lower one
NOT = "two_processes or damaged_clips or finds_the_instance or learns_who or gradcheck"
LIBRARIES = ("torch", "torchvision", "torch_geometric.nn", "hypothesis", "coverage")
WALL = 1200     # seconds after which a mutant is ended however little it computes: it waits for something


# ---- making mutants

def zone(node, cst):
    "Why what lies in this part of the code is left out; None if it is not."
    def spaced(part): return re.search("[a-z] | [a-z]", getattr(part, "raw_value", getattr(part, "value", "")))
    if isinstance(node, (cst.Import, cst.ImportFrom)): return "imports"
    if isinstance(node, cst.Annotation): return "annotations"
    if isinstance(node, cst.Decorator): return "decorators"
    if isinstance(node, cst.Raise): return "errors that are raised, with their texts"
    if isinstance(node, cst.Expr) and isinstance(node.value, (cst.BaseString, cst.ConcatenatedString)):
        return "docstrings"
    if isinstance(node, cst.Assign) and getattr(node.targets[0].target, "value", "") in ("__all__", "_all_"):
        return "__all__"
    if isinstance(node, cst.SimpleString) and spaced(node): return "texts for people"
    if isinstance(node, cst.FormattedString) and any(spaced(p) for p in node.parts
                                                     if isinstance(p, cst.FormattedStringText)):
        return "texts for people"
    return None


def changed_lines(a, b):
    "Of two texts, the lines in which they differ, each as one line, without comments."
    a, b = ([re.sub(r"\s+#[^\"']*$", "", s).strip() for s in t.strip("\n").splitlines()] for t in (a, b))
    while a and b and a[0] == b[0]: del a[0], b[0]
    while a and b and a[-1] == b[-1]: del a[-1], b[-1]
    return " ".join(a), " ".join(b)


def lines_of(node, place, cst):
    "First and last line of a statement, or of the head of an if, for or with; all of a function."
    p = place[node]
    if not isinstance(node, cst.FunctionDef) and isinstance(getattr(node, "body", None), cst.BaseSuite):
        return p.start.line, place[node.body].start.line
    return p.start.line, p.end.line


def changes(node, top, module, operators):
    "What the operators make of a node: the text of the whole statement, where it means something else."
    plain = None
    for kind, operator in operators:
        for new in operator(node) if isinstance(node, kind) else ():
            plain = plain or module.code_for_node(top)
            text = module.code_for_node(top.deep_replace(node, new))
            try:
                if ast.dump(ast.parse(text)) != ast.dump(ast.parse(plain)): yield plain, text
            except SyntaxError: pass


def mutants_of(source, name):
    "All mutants of a module, in order, and {zone: how many were left out}."
    import libcst as cst
    from libcst.metadata import MetadataWrapper, PositionProvider
    from mutmut.mutation.mutators import mutation_operators
    wrapper = MetadataWrapper(cst.parse_module(source))
    module, place = wrapper.module, wrapper.resolve(PositionProvider)
    found, left_out, texts = [], collections.Counter(), collections.defaultdict(list)

    def visit(node, top, way, span, why):
        why = why or zone(node, cst)
        if isinstance(node, (cst.ClassDef, cst.FunctionDef)) and not way.endswith("()"):
            way = ".".join(filter(None, (way, node.name.value))) + "()"*isinstance(node, cst.FunctionDef)
        if isinstance(node, (cst.BaseStatement, cst.BaseSmallStatement)): span = lines_of(node, place, cst)
        for plain, text in changes(node, top, module, mutation_operators):
            key = (name, way.removesuffix("()") if way.endswith("()") else "", *changed_lines(plain, text))
            if why: left_out[why] += 1
            elif text not in texts[key]:
                texts[key].append(text)
                at = place[node].start.line if node in place else span[0]
                found.append(dict(key=[*key, len(texts[key])], line=at, span=span, text=text))
        for child in node.children: visit(child, top, way, span, why)

    for top in module.body: visit(top, top, "", (0, 0), None)
    return found, dict(sorted(left_out.items()))


# ---- putting one in

def plain_function(f):
    "What lies under classmethod, property, lru_cache, no_grad."
    f = getattr(f, "__func__", None) or getattr(f, "fget", None) or f
    while not inspect.isfunction(f): f = f.__wrapped__
    return inspect.unwrap(f)


def put_in(mutant, module):
    """Change the loaded module in place: functions keep their identity, so whoever imported them has the mutant.
    False if the changed code can't be loaded."""
    function = mutant["key"][1]
    new, old = dict(vars(module)), vars(module)
    try: exec(compile(mutant["text"], module.__file__, "exec"), new)
    except Exception: return False
    if not function: constants(new, old)
    else:
        owner = None
        for name in function.split("."):
            owner, (new, old) = old, (t[name] if isinstance(t, dict) else vars(t)[name] for t in (new, old))
        if hasattr(old, "cache_clear"): old.cache_clear()
        code, target = plain_function(new), plain_function(old)
        if code.__code__.co_freevars != target.__code__.co_freevars: setattr(owner, name, new)     # super() has gone
        else:
            for part in ("__code__", "__defaults__", "__kwdefaults__"): setattr(target, part, getattr(code, part))
    return True


def constants(new, old):
    "What stands outside of functions: names of the module, wherever they were imported, and fields of a class."
    for name, value in list(new.items()):
        if name == "__builtins__" or value is old.get(name): continue
        before = old[name]
        if inspect.isclass(value):
            for k, v in vars(value).items():
                if k not in ("__dict__", "__weakref__", "__doc__") and not callable(v): setattr(before, k, v)
            if "__init__" in vars(value): before.__init__ = value.__init__
        else:
            for m in list(sys.modules.values()):
                if getattr(m, "__dict__", {}).get(name) is before: setattr(m, name, value)


# ---- running the tests of one

class Runner:
    "A plugin of pytest: after the collection it tries mutants in place of running the tests."
    def __init__(self, mutants, home, package, tell, least):
        self.mutants, self.home, self.package, self.tell, self.least = mutants, Path(home), package, tell, least
        self.names = list(dict.fromkeys(m["key"][0] for m in mutants))
        self.pipe, self.kills, self.broken = None, collections.Counter(), []

    def pytest_runtest_logreport(self, report):
        if report.failed and self.pipe is not None:
            os.write(self.pipe, report.nodeid.encode())
            os._exit(1)
        if report.failed: self.broken.append(report.nodeid)

    def copy(self, work, cpu, wall):
        "Do `work` in a copy of this process -> (what it wrote, exit status or None if it was ended)."
        ours, theirs = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                os.setsid()
                resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
                nothing = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nothing, 1), os.dup2(nothing, 2)
                work(theirs)
                os._exit(0)
            except BaseException as e:
                os.write(theirs, f"{type(e).__name__}: {e}".encode())
                os._exit(2)
        os.close(theirs)
        said, end = b"", time.time() + wall
        while (ready := select.select([ours], [], [], max(0, end - time.time()))[0]) and (part := os.read(ours, 65536)):
            said += part
        if not ready: os.killpg(pid, signal.SIGKILL)
        os.close(ours)
        _, status = os.waitpid(pid, 0)
        try: os.killpg(pid, signal.SIGKILL)          # what the tests began and did not end
        except ProcessLookupError: pass
        for p in self.home.iterdir(): shutil.rmtree(p, ignore_errors=True)
        late = not ready or os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
        return said.decode(errors="replace"), None if late else status

    def run(self, items):
        for item, following in zip(items, [*items[1:], None]):
            yield item
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)

    def first(self, files):
        "Which tests reach which lines, and how long each takes: {test: seconds}, {module: {line: [tests]}}."
        import coverage
        def work(pipe):
            cover, seconds, last = coverage.Coverage(data_file=None, include=list(files.values())), {}, None
            cover.start()
            for item in self.run(self.items):
                now = time.process_time()
                if last: seconds[last] += now
                last = item.nodeid
                seconds[last] = -now
                cover.switch_context(last)
            seconds[last] += time.process_time()
            cover.stop()
            data, lines = cover.get_data(), {}
            for name, file in files.items():
                lines[name] = {n: [c for c in found if c] for n, found in data.contexts_by_lineno(file).items()}
            with os.fdopen(pipe, "w") as f: json.dump(dict(seconds=seconds, lines=lines, broken=self.broken), f)
        said, status = self.copy(work, 3600, 3600)
        if status != 0: sys.exit(f"mutants: the tests could not be run: {said[-500:]}")
        return json.loads(said)

    def reach(self, mutant, first):
        "The tests that reach the changed lines, the most telling a second first."
        name, function = mutant["key"][:2]
        lines = first["lines"][name]
        of_line = {t for n in range(mutant["span"][0], mutant["span"][1] + 1) for t in lines.get(str(n), ())}
        if not function: of_line = {t for t in first["seconds"]}
        return sorted((i for i in self.items if i.nodeid in of_line and i.nodeid not in first["broken"]),
                      key=lambda i: (first["seconds"][i.nodeid] + .01) / (1 + self.kills[i.nodeid]))

    def one(self, mutant, first):
        items = self.reach(mutant, first)
        module = sys.modules[f"{self.package}{mutant['key'][0]}"]
        def work(pipe):
            if not put_in(mutant, module):
                os.write(pipe, b"it can't be loaded")
                os._exit(1)
            self.pipe = pipe
            for _ in self.run(items): pass
        cpu = self.least + int(3 * sum(first["seconds"][i.nodeid] for i in items))
        start = time.time()
        said, status = self.copy(work, cpu, max(WALL, 10 * cpu)) if items else ("", 0)
        if status is not None and os.waitstatus_to_exitcode(status) == 2:
            sys.exit(f"mutants: {mutant['key']} could not be tried: {said}")
        self.kills[said] += 1
        end = "timed out" if status is None else "survived" if status == 0 else "killed"
        return dict(key=mutant["key"], end=end, tests=len(items), seconds=round(time.time() - start, 2),
                    by=said.split("/")[-1][:200])

    def pytest_runtestloop(self, session):
        "Called by pytest where it would run the tests."
        if session.testsfailed: raise session.Interrupted("the test files can't be loaded")
        self.items = session.items
        modules = {name: importlib.import_module(f"{self.package}{name}") for name in self.names}
        first = self.first({name: m.__file__ for name, m in modules.items()})
        for test in first["broken"]: print(f"left out, for it fails without a mutant: {test}", flush=True)
        for mutant in self.mutants: self.tell(self.one(mutant, first))
        return True


def try_all(mutants, tests, tell, package="micacl.", leave_out=NOT, least=3):
    """Run the tests of these files on each mutant, and `tell` what came of it. A mutant may compute for three times
    as long as its tests take without it, and `least` seconds more."""
    from hypothesis import Phase, settings
    settings.register_profile("mutants", derandomize=True, database=None, deadline=None,
                              phases=[Phase.explicit, Phase.generate])
    settings.load_profile("mutants")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "tests"
        runner = Runner(mutants, home, package, tell, least)
        home.mkdir()
        words = ["-q", "-s", "--no-header", "--tb=no", f"--basetemp={home}", *map(str, tests)]
        for name in ("cacheprovider", "faulthandler", "xdist"): words += ["-p", f"no:{name}"]
        if leave_out: words += ["-k", f"not ({leave_out})"]
        return pytest.main(words, plugins=[runner])


# ---- the report

def reasons(path=REASONS):
    "{(module, function, before, after): reason}"
    if not path.exists(): return {}
    found = tomllib.loads(path.read_text(encoding="utf-8"))["equivalent"]
    return {(r["module"], r["function"], r["before"], r["after"]): r["reason"] for r in found}


def summary(mutants, ends, why):
    "Counts, scores and survivors of one module."
    here = [(m, ends[tuple(m["key"])]) for m in mutants if tuple(m["key"]) in ends]
    n = collections.Counter(e["end"] for _, e in here)
    survivors = [dict(line=m["line"], function=m["key"][1], before=m["key"][2], after=m["key"][3],
                      reason=why.get(tuple(m["key"][:4]), "open")) for m, e in here if e["end"] == "survived"]
    noticed, equivalent = n["killed"] + n["timed out"], sum(s["reason"] != "open" for s in survivors)
    percent = lambda a, b: round(100 * a / b, 1) if b else None
    return dict(seconds=round(sum(e["seconds"] for _, e in here)), mutants=len(here), killed=n["killed"],
                timed_out=n["timed out"], survived=n["survived"], equivalent=equivalent,
                open=n["survived"] - equivalent, score=percent(noticed, len(here)),
                score_without_equivalent=percent(noticed, len(here) - equivalent), survivors=survivors)


def main(words=None):
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(MODULES)}; none: all")
    p.add_argument("--sample", type=int, metavar="N", help="at most N mutants of a module; all, if not given")
    p.add_argument("--seed", type=int, default=0, help="of the sample")
    p.add_argument("--work", type=Path, metavar="FILE", help="results so far: a run that was ended goes on from there")
    p.add_argument("--again", action="store_true", help="try again what survived, after new tests")
    p.add_argument("--list", action="store_true", help="print the mutants, run nothing")
    p.add_argument("--out", type=Path, help="JSON; other modules in it stay as they are")
    a = p.parse_args(words)
    names = a.modules or list(MODULES)
    for name in names:
        if name not in MODULES: sys.exit(f"mutants: expected a module of {', '.join(MODULES)}, found {name!r}")
    sys.path.insert(0, str(ROOT))
    chosen, about = {}, {}
    for name in names:
        file = ROOT / "micacl" / f"{name.replace('.', '/')}.py"
        found, left_out = mutants_of(file.read_text(encoding="utf-8"), name)
        about[name] = dict(tests=list(MODULES[name]), found=len(found), left_out=left_out)
        if a.sample and a.sample < len(found):
            found = sorted(random.Random(a.seed).sample(found, a.sample), key=lambda m: m["line"])
        chosen[name] = found
    if a.list: return [print(m["line"], m["key"][1], "|", m["key"][2], "->", m["key"][3])
                       for found in chosen.values() for m in found]
    with tempfile.TemporaryDirectory() as folder:
        work = a.work or Path(folder) / "work"
        known = read(work)
        if a.again: known = {k: e for k, e in known.items() if e["end"] != "survived"}
        for name in LIBRARIES: importlib.import_module(name)         # once, in place of once a module
        for name, found in chosen.items():
            todo = [m for m in found if tuple(m["key"]) not in known]
            if todo: in_a_process(lambda todo=todo, name=name: try_all(
                todo, [ROOT / "tests" / t for t in MODULES[name]], lambda end: tell(end, work)))
        ends = {k: e for k, e in read(work).items() if k in {tuple(m["key"]) for f in chosen.values() for m in f}}
    why, out = reasons(), {}
    for name, found in chosen.items():
        out[name] = about[name] | summary(found, ends, why)
        print(name, {k: v for k, v in out[name].items() if isinstance(v, (int, float))}, flush=True)
    if a.out: write(a, out)


def write(a, out):
    "Into the file of results: each module with how it was measured; modules that were not run stay as they are."
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from common import commit, machine
    report = json.loads(a.out.read_text(encoding="utf-8")) if a.out.exists() else dict(modules={})
    sample = f" --sample {a.sample} --seed {a.seed}" if a.sample else ""
    versions = {n: version(n) for n in ("mutmut", "libcst", "coverage", "pytest", "hypothesis")}
    now, here = commit(parts=("micacl", "tests", "tools")), machine()
    for name, result in out.items():
        made = dict(command=f"python tools/mutants.py {name}{sample}", commit=now, machine=here, versions=versions,
                    tests_left_out=NOT)
        report["modules"][name] = made | result
    report["modules"] = {n: report["modules"][n] for n in MODULES if n in report["modules"]}
    a.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(work):
    "What became of the mutants so far, {key: end}; of one tried twice, the last."
    if not work.exists(): return {}
    return {tuple((e := json.loads(s))["key"]): e for s in work.read_text(encoding="utf-8").splitlines()}


def tell(end, work):
    with work.open("a", encoding="utf-8") as f: f.write(json.dumps(end) + "\n")
    if end["end"] != "killed": print(f"{end['end']} by {end['tests']} tests:", *end["key"], flush=True)


def in_a_process(do):
    "Each module in a process of its own: what one loads and changes is nothing to the next."
    sys.stdout.flush()
    pid = os.fork()
    if not pid: os._exit(int(do()))
    _, status = os.waitpid(pid, 0)
    if status: sys.exit(f"mutants: the tests ended with status {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__": main()
