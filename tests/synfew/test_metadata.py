"Croissant metadata and datasheet: valid, loadable by somebody else's loader, and counted in the files."
import csv, hashlib, json, shutil
from pathlib import Path
import numpy as np, pytest
from micacl.core import EMOTIONS, MicaclError, read_json
from micacl.data.synfew import metadata
from micacl.data.synfew.generate import PROFILES, generate, read_clip_rows, read_votes
from micacl.data.synfew.metadata import croissant, datasheet, write_metadata

MINI = Path(__file__).parents[2] / "data" / "synfew-mini"
TINY = dict(n_train=14, n_test=7, n_frames=4, size=32, workers=1, progress=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("metadata") / "set"
    generate(root, **TINY)
    return root


@pytest.mark.parametrize("which", ["mini", "made"])
def test_mlcroissant_finds_nothing_wrong_and_loads_every_clip(which, made, caplog):
    mlc = pytest.importorskip("mlcroissant")
    root = dict(mini=MINI, made=made)[which]
    caplog.clear()
    data = mlc.Dataset(root / "croissant.json")
    issues = data.metadata.ctx.issues
    assert not issues.errors and not issues.warnings
    rows, votes = read_clip_rows(root), read_votes(root)
    text = lambda x: x.decode() if isinstance(x, bytes) else x
    found = [{k.removeprefix("clips/"): text(v) for k, v in r.items()} for r in data.records("clips")]
    assert len(found) == len(rows) > 20
    for ours, theirs in zip(rows, found):
        assert ours.keys() == theirs.keys()
        for k, v in ours.items():
            if isinstance(theirs[k], (str, type(None))): assert (theirs[k] or "") == v
            else: assert float(theirs[k]) == float(v) and (isinstance(theirs[k], int) == ("." not in v))
        assert (root / theirs["path"]).is_file()
    said = {r["votes/number"]: [r[f"votes/{e}"] for e in EMOTIONS] for r in data.records("votes")}
    assert said == {int(clip): v.tolist() for clip, v in votes.items()}
    videos = {text(r["videos/clip"]): r["videos/video"] for r in data.records("videos")}
    assert videos == {r["clip"]: (root / r["path"]).read_bytes() for r in rows}
    assert [r["labels/name"] for r in data.records("labels")] == list(EMOTIONS)
    assert {r["splits/name"] for r in data.records("splits")} == {r["split"] for r in rows}
    again = [sum(1 for _ in data.records(name)) for name in ("clips", "votes", "videos")]     # a second time
    assert again == [len(rows)] * 3
    assert not [r for r in caplog.records if r.levelname in ("WARNING", "ERROR")]


def test_mlcroissant_notices_a_table_that_has_changed(made, tmp_path):
    mlc = pytest.importorskip("mlcroissant")
    root = Path(shutil.copytree(made, tmp_path / "set"))
    table = root / "clips.csv"
    table.write_bytes(table.read_bytes().replace(b"happy", b"angry", 1))
    with pytest.raises(Exception) as e: list(mlc.Dataset(root / "croissant.json").records("clips"))
    assert "Hash of downloaded file" in f"{e.value} {e.value.__cause__}"


def test_hashes_and_sizes_are_those_of_the_files(made):
    files = {f["name"]: f for f in read_json(made / "croissant.json")["distribution"]}
    assert list(files) == ["clips.csv", "votes.csv", "truth.npz", "clips", "mp4"]
    for name in ("clips.csv", "votes.csv", "truth.npz"):
        data = (made / name).read_bytes()
        assert files[name]["sha256"] == hashlib.sha256(data).hexdigest()
        assert files[name]["contentSize"] == f"{len(data)} B"
    clips = b"".join(p.read_bytes() for p in sorted((made / "clips").iterdir()))
    assert files["clips"]["sha256"] == hashlib.sha256(clips).hexdigest()
    assert files["clips"]["contentSize"] == f"{len(clips)} B"
    with np.load(made / "truth.npz") as z: assert all(k in files["truth.npz"]["description"] for k in z.files[1:])


def test_ids_are_unique_and_every_reference_leads_somewhere(made):
    declared, used = [], set()
    def walk(x):
        if isinstance(x, list): [walk(v) for v in x]
        elif isinstance(x, dict):
            if "@id" in x and "@type" in x and not x["@type"].startswith("@"): declared.append(x["@id"])
            elif set(x) == {"@id"}: used.add(x["@id"])
            [walk(v) for k, v in x.items() if k != "@context"]
    walk(read_json(made / "croissant.json"))
    assert len(declared) == len(set(declared)) > 50 and used <= set(declared), used - set(declared)


def test_licence_version_citation_and_an_honest_place_for_a_doi(made):
    info, meta = read_json(made / "synfew.json"), read_json(made / "croissant.json")
    assert meta["name"] == info["version"] and meta["version"] == "1.0.0" and "Apache-2.0" in meta["license"]
    assert info["command"] in meta["description"] and "micacl contributors" in meta["citeAs"]
    sheet = (made / "DATASHEET.md").read_text(encoding="utf-8")
    for text in (meta["identifier"]["value"], meta["citeAs"], sheet): assert "none yet" in text.lower()
    assert "doi = " not in meta["citeAs"] and not meta["identifier"]["value"].startswith("10.")
    doi = "10.1234/example"
    meta, sheet = croissant(made, info, doi), datasheet(made, info, doi)
    assert meta["identifier"]["value"] == doi and f"doi = {{{doi}}}" in meta["citeAs"]
    assert f"https://doi.org/{doi}" in sheet and "none yet" not in (meta["citeAs"] + sheet).lower()


@pytest.mark.parametrize("doi", ["https://doi.org/10.1234/x", "10.1234", "zenodo"])
def test_what_is_no_doi_is_refused_and_nothing_is_written(made, doi):
    before = [(made / name).read_bytes() for name in ("croissant.json", "DATASHEET.md")]
    with pytest.raises(MicaclError) as e: write_metadata(made, doi=doi)
    assert str(e.value).startswith("doi: expected") and "\n" not in str(e.value) and doi in str(e.value)
    assert [(made / name).read_bytes() for name in ("croissant.json", "DATASHEET.md")] == before


def test_responsible_fields_say_what_was_counted(made):
    rai = {k: v for k, v in read_json(made / "croissant.json").items() if k.startswith("rai:")}
    assert len(rai) >= 15 and all(rai.values())
    train = [r for r in read_clip_rows(made) if r["split"] == "train"]
    wrong = sum(r["label"] != r["clean_label"] for r in train)
    assert f"{wrong} of {len(train)} in train" in rai["rai:dataAnnotationAnalysis"][0]
    assert "Not for: Statements about real faces" in rai["rai:dataLimitations"][1]


def test_the_datasheet_has_gebrus_sections_and_the_counts_of_this_set(made):
    sheet, rows = (made / "DATASHEET.md").read_text(encoding="utf-8"), read_clip_rows(made)
    assert [s[3:] for s in sheet.splitlines() if s.startswith("## ")] == [
        "Motivation", "Composition", "Collection", "Preprocessing, cleaning, labelling", "Uses", "Distribution",
        "Maintenance"]
    assert f"{len(rows)} clips with {sum(int(r['n_frames']) for r in rows)} frames" in sheet and "{" not in sheet
    for split in ("train", "test", "test_balanced"):
        of = [r["label"] for r in rows if r["split"] == split]
        assert f"| {split} | " + " | ".join(str(of.count(e)) for e in EMOTIONS) + f" | {len(of)} |" in sheet
    assert len({r["identity"] for r in rows}) == int(sheet.split(" drawn people")[0].split()[-1])


def test_another_set_has_other_counts_and_only_its_splits(tmp_path):
    generate(tmp_path / "x", **{**TINY, "n_test": 0, "profile": next(p for p in PROFILES if p != "dfew")})
    sheet = (tmp_path / "x" / "DATASHEET.md").read_text(encoding="utf-8")
    assert "\n| train |" in sheet and "| test |" not in sheet and "`test_balanced`" not in sheet
    assert [r["splits/name"] for s in read_json(tmp_path / "x" / "croissant.json")["recordSet"] if s["name"] == "splits"
            for r in s["data"]] == ["train"]


def test_every_column_of_the_list_has_a_type(made):
    with open(made / "clips.csv", newline="", encoding="utf-8") as f:
        assert next(csv.reader(f)) == list(metadata._COLUMNS)


def test_the_same_set_has_the_same_bytes_and_an_old_set_gets_the_files(made, tmp_path):
    root = Path(shutil.copytree(made, tmp_path / "old"))
    names = ("croissant.json", "DATASHEET.md")
    for name in names: (root / name).unlink()
    assert generate(root, **TINY) == read_json(root / "synfew.json") and not (root / names[0]).exists()   # as it was
    write_metadata(root)
    assert [(root / n).read_bytes() for n in names] == [(made / n).read_bytes() for n in names]


def test_a_full_disk_leaves_no_half_file(made, tmp_path, monkeypatch):
    root = Path(shutil.copytree(made, tmp_path / "set"))
    before = {p.name: p.read_bytes() for p in root.iterdir() if p.is_file()}
    def full(*_): raise OSError(28, "No space left on device")
    monkeypatch.setattr("micacl.core.os.fsync", full)
    with pytest.raises(OSError, match="No space left"): write_metadata(root, doi="10.1234/example")
    assert {p.name: p.read_bytes() for p in root.iterdir() if p.is_file()} == before


def test_the_committed_set_has_what_would_be_written():
    info = read_json(MINI / "synfew.json")
    assert (MINI / "DATASHEET.md").read_text(encoding="utf-8") == datasheet(MINI, info)
    assert json.loads((MINI / "croissant.json").read_text(encoding="utf-8")) == croissant(MINI, info)
