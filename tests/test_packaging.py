"settings.ini is the source of the metadata; the few copies that other tools insist on must agree with it."
import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11): import tomllib
else: import tomli as tomllib

ROOT = Path(__file__).parents[1]
ini = configparser.ConfigParser(delimiters=["="])
ini.read(ROOT / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]
proj = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = sorted(p for p in (ROOT / "micacl").glob("*.py") if p.name not in ("__init__.py", "_modidx.py"))


def test_pyproject_repeats_settings():
    assert proj["name"] == cfg["lib_name"] and proj["description"] == cfg["description"]
    assert proj["urls"] == {"Repository": cfg["git_url"], "Documentation": cfg["doc_url"]}
    assert "version" in proj["dynamic"] and "version" not in cfg


def test_nbdev_reads_the_same():
    from nbdev.config import get_config
    c = get_config(ROOT)
    assert (c.lib_name, c.git_url, c.user, c.repo) == (cfg["lib_name"], cfg["git_url"], cfg["user"], cfg["repo"])


def test_installed_metadata_follows_settings():
    from importlib.metadata import metadata, requires, version
    import micacl
    m = metadata("micacl")
    assert version("micacl") == micacl.__version__ and m["License-Expression"] == cfg["license"]
    core = [r for r in requires("micacl") if "extra ==" not in r]
    want = [s for s in cfg["requirements"].splitlines() if s.strip()]
    assert len(core) == len(want)
    assert not any(re.match(r"(nbdev|jupyterlab|pytest|ipywidgets)\b", r) for r in core)


def test_a_build_is_quiet_and_holds_the_weights(tmp_path):
    "About 2 s. What setuptools warns of, whoever installs the package reads."
    for need in ("build", "setuptools", "wheel"): pytest.importorskip(need)
    for name in ("pyproject.toml", "setup.py", "settings.ini", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "micacl", tmp_path / "micacl", ignore=shutil.ignore_patterns("__pycache__"))
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}      # a variable may make Python warn of itself
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "."]
    r = subprocess.run(build, cwd=tmp_path, env=env, capture_output=True, text=True)
    said = r.stdout + r.stderr
    assert r.returncode == 0 and not re.search(r"warning|deprecat|\*{20}", said, re.I), said[-3000:]
    editable = "from setuptools.build_meta import build_editable; build_editable('editable')"       # as `pip install -e .`
    (tmp_path / "editable").mkdir()
    r = subprocess.run([sys.executable, "-c", editable], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert r.returncode == 0 and not re.search(r"warning|deprecat|\*{20}", r.stdout + r.stderr, re.I), r.stderr[-3000:]
    wheel, = (tmp_path / "dist").glob("*.whl")
    names = {n for n in zipfile.ZipFile(wheel).namelist() if n.startswith("micacl/")}
    kinds = (".py", ".safetensors", ".md", ".typed")
    there = {p.relative_to(tmp_path).as_posix() for p in (tmp_path / "micacl").rglob("*") if p.suffix in kinds}
    assert names == there and "micacl/nn/weights/r3d_small.safetensors" in names


def test_every_chapter_has_its_module():
    exported = {m[1] for p in (ROOT / "nbs").glob("*.ipynb") if (m := re.search(r"#\|\s*default_exp (\w+)", p.read_text(encoding="utf-8")))}
    assert exported == {p.stem for p in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_module_imports_only_from_earlier_chapters(path):
    order = {m[1]: p.name for p in sorted((ROOT / "nbs").glob("*.ipynb")) if (m := re.search(r"#\|\s*default_exp (\w+)", p.read_text(encoding="utf-8")))}
    for name in re.findall(r"^\s*(?:from (?:micacl)?\.(\w+) import|import micacl\.(\w+))", path.read_text(encoding="utf-8"), re.M):
        name = name[0] or name[1]
        if name in order: assert order[name] < order[path.stem], f"{path.stem} imports {name}, a later chapter"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_module_stays_small(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 330, f"{path.name}: {len(lines)} lines"


def test_requirements_for_development_are_exact():
    lines = [s for s in (ROOT / "requirements-dev.txt").read_text().splitlines() if s and not s.startswith("#")]
    assert lines and all("==" in s for s in lines)


def test_figures_of_the_readme_come_from_the_results():
    import json
    from record_demo import fill
    readme, figures, ablations, bakeoff = (ROOT / "README.md").read_text(encoding="utf-8"), *(json.loads((ROOT / "results" / f"{n}.json").read_text()) for n in ("demo", "ablations", "bakeoff"))
    assert all(row in readme for row in ("| MICACL |", "| MICACL, balanced sampler |", "| MICACL + balanced softmax |")) and fill(readme, figures, ablations, bakeoff) == readme
    other = json.loads(json.dumps(ablations))
    other["methods"]["MICACL"]["tests"]["test_balanced"]["uar"]["mean"] += 0.1
    assert fill(readme, figures, other, bakeoff) != readme                         # a changed figure is noticed


def test_rates_of_the_demo_are_those_that_tuning_chose():
    import json
    from micacl.show.report import demo_config
    methods = json.loads((ROOT / "results" / "ablations.json").read_text())["methods"]
    for model, method in (("micacl", "MICACL"), ("mean", "mean pooling, plain CE")):
        config = demo_config(model)
        assert config.lr == methods[method]["chosen"]["lr"] and abs(config.lr * config.backbone_lr - 1e-3) < 2e-4


USER = """import torch
from micacl.train.config import Config
from micacl.mccl import MCCL
from micacl.models import MICACL, build_model
out = MICACL(n_classes=7, backbone="r3d_small")(torch.rand(2, 16, 3, 64, 64))
reveal_type(out.logits)
reveal_type(out.adjacency)
reveal_type(MCCL([10, 5], 64)(out.bag, torch.tensor([0, 1])))
reveal_type(build_model(Config(), 7)(torch.rand(2, 16, 3, 64, 64)).bag)
reveal_type(Config().lr)
MICACL(n_classes="7")
MCCL([10, 5], dim="64")
Config(lr="fast")
Config(learning_rate=0.1)
out.logit
"""


def test_a_type_checker_sees_what_a_user_writes(tmp_path):
    pytest.importorskip("mypy")
    assert (ROOT / "micacl" / "py.typed").is_file()
    (tmp_path / "user.py").write_text(USER, encoding="utf-8")
    mypy = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache"), "user.py"]
    r = subprocess.run(mypy, cwd=tmp_path, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True)
    said = {int(m[1]): m[2] for m in re.finditer(r"^user\.py:(\d+): (.*)$", r.stdout, re.M) if "defined in" not in m[2]}
    shown = [re.search(r'"(.*)"', said.pop(n))[1].replace("torch._tensor.", "") for n in range(6, 11)]
    assert shown == ["Tensor", "Tensor | None", "Tensor", "Tensor", "float"], r.stdout + r.stderr
    codes = {n: re.search(r"\[([\w-]+)\]$", text)[1] for n, text in said.items()}
    assert codes == {11: "arg-type", 12: "arg-type", 13: "arg-type", 14: "call-arg", 15: "attr-defined"}, r.stdout
