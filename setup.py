"""Package metadata for micacl. Every value comes from settings.ini: edit that file, not this one."""
import re
import warnings
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

# of `pip install -e .`: a box about folders that are named like the package, which nobody has here
warnings.filterwarnings("ignore", "Editable installation")

HERE = Path(__file__).parent
ini = ConfigParser(delimiters=["="])
ini.read(HERE / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]
STATUS = {"1": "1 - Planning", "2": "2 - Pre-Alpha", "3": "3 - Alpha", "4": "4 - Beta", "5": "5 - Production/Stable"}


def for_pypi(text):
    "The README with addresses instead of paths: PyPI shows it without the repository around it."
    text = re.sub(r"(!\[[^\]]*\]\()(?!https?:|#)",
                  rf"\1{cfg['git_url'].replace('github.com', 'raw.githubusercontent.com')}/{cfg['branch']}/", text)
    return re.sub(r"(\]\()(?!https?:|#)", rf"\1{cfg['git_url']}/blob/{cfg['branch']}/", text)


def words(key): return cfg.get(key, "").split()


def lines(key): return [s.strip() for s in cfg.get(key, "").splitlines() if s.strip()]


# nbdev-bump-version edits __init__.py, so the version has its one place there
version = re.search(r'__version__ = "(.+)"', (HERE / cfg["lib_path"] / "__init__.py").read_text(encoding="utf-8"))[1]
extras = {key.removesuffix("_requirements"): lines(key) for key in cfg if key.endswith("_requirements")}
extras["notebooks"] += extras["predict"] + extras["get"] + extras["timm"] + extras["export"] + extras["elsewhere"]
extras["dev"] = extras["notebooks"] + extras["dev"]

setup(
    version=version,
    author=cfg["author"],
    author_email=cfg["author_email"],
    license_expression=cfg["license"],
    license_files=["LICENSE"],
    keywords=words("keywords"),
    classifiers=[
        f"Development Status :: {STATUS[cfg['status']]}",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        *(f"Programming Language :: Python :: {v}" for v in ("3", "3.10", "3.11", "3.12", "3.13", "3.14")),
        "Framework :: Jupyter",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=f">={cfg['min_python']}",
    long_description=for_pypi((HERE / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    install_requires=lines("requirements"),
    extras_require=extras,
    packages=find_packages(include=[cfg["lib_path"], f"{cfg['lib_path']}.*"]),
    package_data={cfg["lib_path"]: words("package_data")},
    entry_points={
        "console_scripts": lines("console_scripts"),
        "nbdev": [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],
    },
    zip_safe=False,
)
