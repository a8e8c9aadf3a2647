"Every citation of the book is a link to the bibliography, and every work there is cited."
import re

import pytest

from references import BIB, CITATION, PAGE, PLACES, cited, families, link, pages, prose, read_bib, written
from sitekit.book import NBS

ENTRIES = read_bib(BIB.read_text(encoding="utf-8"))
# an author and a year, or "et al.", that no link holds
BARE = re.compile(r"et al\.|[A-Z][^\W\d_]+,? \(?(?:19|20)\d\d[);,]")
each_page = pytest.mark.parametrize("path", pages(), ids=lambda p: p.relative_to(NBS).as_posix())


def bare(text):
    "Citations that are no links."
    text = CITATION.sub("", re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S))
    return [text[max(0, m.start() - 30):m.end() + 10] for m in BARE.finditer(text)]


@each_page
def test_a_citation_is_a_link_to_its_entry(path):
    text, way = prose(path), "../" * (len(path.relative_to(NBS).parts) - 1) + "references.md"
    for m in CITATION.finditer(text):
        assert m["way"] == way and m["key"] in ENTRIES, m[0]
        entry = ENTRIES[m["key"]]
        assert families(entry)[0] in m["label"] and entry["year"] in m["label"], m[0]
    assert text.count("references.md#") == len(CITATION.findall(text)), "expected [Author, year](references.md#key)"
    assert not bare(text)


def test_what_is_no_link_is_found():
    for text in ("as (Tran et al., CVPR 2018) found", "Xie et al. (ECCV 2018) found", "Ekman 2003)",
                 "Viola and Jones (2001)", "(Krizhevsky, 2014, for", "(King 2015);"):
        assert bare(text), text
    assert not bare("[Tran et al., 2018](references.md#tran2018), in `et al.`, and 2000 bags of SynFEW (2020 clips)")


def test_every_entry_is_whole_and_cited():
    assert len(ENTRIES) == BIB.read_text(encoding="utf-8").count("\n@") + 1
    assert list(ENTRIES) == sorted(ENTRIES)
    for key, e in ENTRIES.items():
        assert e["author"] and e["title"] and re.fullmatch(r"(19|20)\d\d", e["year"]), key
        assert key.startswith(re.sub(r"\W", "", families(e)[0].lower())) or key == "eu2024", key
        assert e["year"] in key, key
        assert re.fullmatch(r"\[.+\]\(https://[^\s)]+\)", link(e)), key
        assert any(p in e for p in PLACES) or "eprint" in e, f"{key}: expected where it appeared"
        assert "eprint" not in e or re.fullmatch(r"arXiv:\d{4}\.\d{4,5}", f"{e['archiveprefix']}:{e['eprint']}"), key
        assert "doi" not in e or re.fullmatch(r"10\.\d{4,}/\S+", e["doi"]), key
    assert cited().keys() == ENTRIES.keys()


def test_the_page_is_made_from_the_entries():
    assert PAGE.read_text(encoding="utf-8") == written(ENTRIES, cited()), "run python tools/references.py"


def test_a_line_that_is_no_field_is_told():
    with pytest.raises(ValueError, match="a line for each field"):
        read_bib("@misc{a2020,\n  author = {A},\n  title {B},\n}\n")
