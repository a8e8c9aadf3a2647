"The decks: what they show is on the pages, they say what the speaker needs, and a source that asks for more fails."
import html
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import slides
from slidekit.source import AROUND, NBS, SOURCES, SlidesError, minutes, plans, read_source, words
from slides import Deck, build, notebook, printed, table_of

PAGES = sorted({p for sessions in plans().values() for _, pages, _ in sessions for p in pages})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("slides")
    return out, build(out)


def test_every_session_has_its_deck(made):
    out, decks = made
    for n, sessions in plans().items():
        for title, pages, sheet in sessions:
            deck, = (d for d in decks.values() if (d.pages, d.sheet) == (pages, sheet))
            text = (out / deck.file).read_text(encoding="utf-8")
            assert deck.title == title and f"session {sessions.index((title, pages, sheet)) + 1} of {n}" in text
    index = (out / "index.html").read_text(encoding="utf-8")
    assert all(index.count(f'href="{file}"') >= 1 for file in decks)


def test_a_deck_is_chosen_and_fits_its_half_hour(made):
    for d in made[1].values():
        assert 12 <= len(d.slides) <= 20 and 24 <= d.minutes <= 36, (d.file, len(d.slides), d.minutes)
        kinds = [s["kind"] for s in d.slides]
        assert kinds[0] == "opening" and kinds[-2:] == ["lab", "discuss"] and "predict" in kinds, d.file
        assert len({s["title"] for s in d.slides}) == len(d.slides), d.file
        asked = sum(bool(re.search(r"Ask|Predict", s["notes"] + s["title"])) for s in d.slides)
        wrong = sum("What students get wrong" in s["notes"] for s in d.slides)
        assert asked >= 5 and wrong >= 2 and all(s["notes"].strip() for s in d.slides), d.file


def test_every_session_fits_into_ninety_minutes():
    for sessions in plans().values():
        for title, pages, sheet in sessions:
            m = minutes(pages, sheet)
            assert m["total"] == AROUND + m["talk"] + m["lab"] <= 90 and m["lab"] >= 25, (title, m)


def test_pictures_are_there_and_have_words(made):
    out, decks = made
    for file in decks:
        text = (out / file).read_text(encoding="utf-8")
        pictures = re.findall(r"<img [^>]*>", text)
        assert pictures and all(re.search(r'alt="[^"]{20,}"', p) for p in pictures), file
        assert all((out / re.search(r'src="([^"]+)"', p)[1]).is_file() for p in pictures), file
        drawn = re.findall(r'<svg [^>]*class="drawing"[^>]*>', text)
        assert all(re.search(r'aria-label="[^"]{20,}"', p) for p in drawn), file
        assert "merror" not in text and not re.search(r'(?:src|href)="https?://(?!micacl\.github\.io)', text), file


def on_page(page):
    "All that a page says: text, code, what was printed, words of the figures."
    cells = notebook(page).cells
    said = [c.source + c.alt + printed(c) + table_of(c) for c in cells]
    return re.sub(r"[{}\\,\u00a0 ]|−", "", html.unescape("\n".join([*said, words(page)])).replace("−", "-"))


@pytest.mark.parametrize("page", PAGES)
def test_a_number_of_a_slide_stands_on_its_page(page):
    source, there = read_source(page), on_page(page)
    there = there + on_page("01_long_tail") if page == "14_rare_classes" else there
    for s in [*source.slides, source.discuss]:
        text = re.sub(r"(?m)^@.*|`[^`]*`", "", "\n".join(s.lines + s.notes))
        for number in re.findall(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?", text):
            if len(number) == 1: continue
            assert re.sub(",", "", number) in there, f"{page}, {s.title}: {number} is not on the page"


@pytest.mark.parametrize("line, message", [
    ("@figure 00000000", "expected a cell 00000000 on the page, found none"),
    ("@figure cfb83672", "has no '#| fig-alt:'"),
    ("@drawing nothing", "expected the drawing nothing.svg on the page, found none"),
    ('@code a9203812 "for epoch" "no such words"', "expected lines from 'for epoch' to 'no such words', found none"),
    ("@output f9d082ee", "has printed nothing"),
    ("@picture 1700d431", "no such command"),
    ("[gone](99_gone.ipynb)", "no page 99_gone.ipynb"),
])
def test_what_is_not_there_is_an_error(made, tmp_path, monkeypatch, line, message):
    (tmp_path / "00_tour.md").write_text(f"## One {{2 min}}\n\n{line}\n\n# Discuss\n\n- Why?\n")
    monkeypatch.setattr("slidekit.source.SOURCES", tmp_path)
    with pytest.raises(SlidesError, match=re.escape(message)):
        Deck("One", ["00_tour"], "1_counting", slides.Assets(tmp_path)).build()


def test_a_source_that_cannot_be_read_says_where(tmp_path, monkeypatch):
    monkeypatch.setattr("slidekit.source.SOURCES", tmp_path)
    path = tmp_path / "00_tour.md"
    for text, message in (("## No minutes\n", "line 1: expected '## Title {2 min}'"),
                          ("words\n", "expected a slide first"),
                          ("## One {2 min}\n", "expected a last section '# Discuss'")):
        path.write_text(text)
        with pytest.raises(SlidesError, match=re.escape(message)): read_source("00_tour")


def test_another_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("five years")
    with pytest.raises(SlidesError, match="expected an empty folder or older slides"): build(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_sources_belong_to_pages():
    names = {p.relative_to(SOURCES).with_suffix("").as_posix() for p in SOURCES.rglob("*.md")}
    assert names == set(PAGES) and all((NBS / f"{n}.ipynb").exists() for n in names)
