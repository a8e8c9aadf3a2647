"""Keep the figures of a finished demo, and bring the table of README.md in step with results/.

    make demo && .venv/bin/python tools/record_demo.py demo     # writes results/demo.json and the table
    .venv/bin/python tools/record_demo.py                       # the table alone
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


def fill(readme, figures):
    "README text with the table between its marks."
    return re.sub(r"(?<=<!-- figures -->\n).*?(?=<!-- /figures -->)", lambda _: table(figures) + "\n", readme,
                  flags=re.S)


if __name__ == "__main__":
    from micacl.core import atomic_write, read_json, write_json
    if sys.argv[1:]: write_json(ROOT / "results" / "demo.json", record(Path(sys.argv[1])))
    text = fill((ROOT / "README.md").read_text(encoding="utf-8"), read_json(ROOT / "results" / "demo.json"))
    with atomic_write(ROOT / "README.md") as f: f.write(text)
