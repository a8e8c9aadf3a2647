"""Export MICACL with both backbones and both formats: size, largest difference, seconds. Untrained: what was learnt
makes no difference.

    python benchmarks/export_large.py results/export.json
"""
import sys
import tempfile
import time
from pathlib import Path

from common import commit, machine


def main(out):
    import torch
    from micacl.core import write_json
    from micacl.deploy.export import TOLERANCE, WRITERS, export
    from micacl.models import MICACL
    rows = []
    for backbone in ("r3d_small", "r3d_18"):
        torch.manual_seed(0)
        model = MICACL(7, backbone, pretrained=False).eval()
        for format in WRITERS:
            start = time.time()
            with tempfile.TemporaryDirectory() as folder: said = export(model, Path(folder) / "model", format)
            rows.append(dict(backbone=backbone, parameters=sum(p.numel() for p in model.parameters()), format=format,
                             seconds=round(time.time() - start, 1), **{k: said[k]
                                 for k in ("bytes", "difference", "largest")}))
            print(rows[-1], flush=True)
    write_json(out, dict(command="python benchmarks/export_large.py results/export.json", commit=commit(),
                         machine=machine(), seed=0, tolerance=TOLERANCE, rows=rows))


if __name__ == "__main__": main(sys.argv[1])
