"""Run an experiment and keep its summary: results/NAME.json, with the command and the commit.

    python benchmarks/experiment.py ablations WORK       # benchmarks/ablations.json -> results/ablations.json
    python benchmarks/experiment.py end-to-end WORK
    python benchmarks/experiment.py protocols/crema-d WORK

WORK serves all experiments: drawn sets, features and runs lie there, so that what two of them have in common is made
once; the summary of each lies in WORK/NAME. The same without the bookkeeping, in a folder of its own: `micacl
experiment benchmarks/ablations.json --out FOLDER`. Stopped, both go on where they were.
"""
import sys
from pathlib import Path

from common import ROOT, commit

if __name__ == "__main__":
    from micacl.core import write_json
    from micacl.train.experiments import run_experiment
    name, work = sys.argv[1], Path(sys.argv[2])
    before = commit()
    summary = run_experiment(ROOT / "benchmarks" / f"{name}.json", work / name, shared=work)
    del summary["home"]
    (made := ROOT / "results" / f"{name}.json").parent.mkdir(exist_ok=True)      # protocols/NAME
    write_json(made, dict(command=f"python benchmarks/experiment.py {name} WORK",
                                                       commit=before, **summary))
