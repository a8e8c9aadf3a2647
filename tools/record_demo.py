"""Keep the figures of a finished demo, and bring the tables of README.md in step with results/.

    make demo && .venv/bin/python tools/record_demo.py demo     # writes results/demo.json and the tables
    .venv/bin/python tools/record_demo.py                       # the tables alone
"""
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
from common import commit, machine  # noqa: E402
KEEP = ("n_test", "uar", "war", "recall", "head", "medium", "tail", "ece", "intervals", "instance_auc",
        "instance_auc_clips")
NAMES = dict(micacl="MICACL", mean="mean pooling, cross entropy")


def record(demo):
    "The figures of one demo folder."
    from micacl.core import read_json
    from micacl.show.demo import DEMO
    runs = []
    for model in NAMES:
        results, config = read_json(demo / model / "results.json"), read_json(demo / model / "config.json")
        seconds = sum(json.loads(line)["seconds"] for line in (demo / model / "metrics.jsonl").read_text().splitlines())
        runs.append(dict(model=model, seed=results["seed"], epochs=results["epoch"], n_train=config["n_train"],
                         train_counts=config["train_counts"],
                         training_seconds=round(seconds), tests={name: {k: t[k] for k in KEEP if k in t} for name,
                             t in results["tests"].items()}))
    return dict(command="make demo", commit=commit(), machine=machine(), settings=DEMO, runs=runs)


def table(figures):
    "The README's table, from the figures."
    lines = ["| model | UAR, balanced test | UAR, natural test | WAR, natural test | rarest two (disgust, fear) | "
             "finds the apex (AUC) |",
             "|---|---|---|---|---|---|"]
    def cell(s, m): return f"{100 * s[m]:.1f} [{100 * s['intervals'][m][0]:.1f}, {100 * s['intervals'][m][1]:.1f}]"
    for r in figures["runs"]:
        b, n = r["tests"]["test_balanced"], r["tests"]["test"]
        lines.append(f"| {NAMES[r['model']]} | {cell(b, 'uar')} | {cell(n, 'uar')} | {cell(n, 'war')} | "
                     f"{100 * b['tail']:.1f} | {b['instance_auc']:.2f} |")
    r, m = figures["runs"][0], figures["machine"]
    lines += ["", f"Per cent, with 95 % intervals over the test clips; chance is {100 / 7:.1f} UAR and 0.50 AUC. One "
                  f"seed ({r['seed']}), {r['epochs']} epochs on {r['n_train']} of "
                  f"{figures['settings']['data']['n_train']} drawn clips, the others being for validation, "
              f"{' and '.join(str(x['training_seconds']) for x in figures['runs'])} seconds of training on "
              f"{m['cpu_cores']} CPU cores, {m['gpu']}. "
              f"From [results/demo.json](results/demo.json), made by `{figures['command']}` at commit "
              f"{figures['commit']}."]
    return "\n".join(lines)


METHODS = ("mean pooling, plain CE", "gated attention", "transformer", "M3DFEL", "MICACL", "GEIIM + WIAN",
           "gated attention, balanced sampler", "MICACL, balanced sampler")


def ablations(r):
    "The README's second table, from results/ablations.json."
    lines = ["| method | UAR, balanced test | rarest two (disgust, fear) | finds the apex (AUC) |", "|---|---|---|---|"]
    def cell(v): return f"{100 * v['mean']:.1f} ± {100 * v['sd']:.1f}"
    for m in METHODS:
        t = r["methods"][m]["tests"][r["spec"]["test"]]
        lines.append(f"| {m} | {cell(t['uar'])} | {cell(t['tail'])} | {t['instance_auc']['mean']:.2f} |")
    d = {(c["a"], c["b"]): c["uar"] for c in r["comparisons"]}
    def gap(a, b):
        return (f"{100 * d[a, b]['difference']:+.1f} [{100 * d[a, b]['interval'][0]:+.1f}, "
                f"{100 * d[a, b]['interval'][1]:+.1f}]")
    lines += ["", f"Per cent, mean ± standard deviation over {len(r['spec']['seeds'])} seeds, {t['n_test']} test "
                  f"clips, frozen backbone, {r['spec']['base']['epochs']} epochs, every method tuned alike on other "
                  "clips. Differences in UAR with 95 % intervals: MICACL – M3DFEL "
              f"{gap('MICACL', 'M3DFEL')}, MICACL – mean pooling {gap('MICACL', 'mean pooling, plain CE')}; what MCCL "
              f"adds (MICACL – GEIIM + WIAN) {gap('MICACL', 'GEIIM + WIAN')}; with the balanced sampler, MICACL – "
              "gated attention "
              f"{gap('MICACL, balanced sampler', 'gated attention, balanced sampler')}. From "
              f"[results/ablations.json](results/ablations.json), made by `{r['command']}` at commit {r['commit']}."]
    return "\n".join(lines)


ROWS = ("mean pooling", "cross entropy", "MCCL", "cRT", "balanced sampler", "logit adjustment, post hoc",
        "balanced softmax", "MICACL", "MICACL + balanced softmax")


def bakeoff(r):
    "The README's third table, from results/bakeoff.json."
    lines = ["| method | UAR, balanced test | head | rarest two | accuracy, natural test |", "|---|---|---|---|---|"]
    def cell(v): return f"{100 * v['mean']:.1f} ± {100 * v['sd']:.1f}"
    for m in ROWS:
        t = r["methods"][m]["tests"]
        b = t[r["spec"]["test"]]
        lines.append(f"| {m} | {cell(b['uar'])} | {cell(b['head'])} | {cell(b['tail'])} | {cell(t['test']['war'])} |")
    lines += ["", f"{len(ROWS)} of {len(r['methods'])} rows, per cent, {len(r['spec']['seeds'])} seeds, "
                  f"{r['spec']['base']['epochs']} epochs. Rows that do not say otherwise are gated attention with "
                  "plain cross entropy and one thing changed. "
              f"From [results/bakeoff.json](results/bakeoff.json), made by `{r['command']}` at commit {r['commit']}."]
    return "\n".join(lines)


def fill(readme, figures, ablation_results, bakeoff_results):
    "README text with the tables between their marks."
    for name, text in (("figures", table(figures)), ("ablations", ablations(ablation_results)),
                       ("bakeoff", bakeoff(bakeoff_results))):
        readme = re.sub(rf"(?<=<!-- {name} -->\n).*?(?=\n<!-- /{name} -->)", lambda _, text=text: text, readme,
                        flags=re.S)
    return readme


if __name__ == "__main__":
    from micacl.core import atomic_write, read_json, write_json
    if sys.argv[1:]: write_json(ROOT / "results" / "demo.json", record(Path(sys.argv[1])))
    text = fill((ROOT / "README.md").read_text(encoding="utf-8"),
                *(read_json(ROOT / "results" / f"{name}.json") for name in ("demo", "ablations", "bakeoff")))
    with atomic_write(ROOT / "README.md") as f: f.write(text)
