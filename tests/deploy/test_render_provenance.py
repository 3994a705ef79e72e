"""Every figure of a report stands beside the word that says how it was found."""

import re

import jinja2
import pytest
from report_forms import FORMS, require_provenance
from report_sample import parts, sample

from lmaunet.artifacts import Measurement
from lmaunet.deploy import figures, render, report


@pytest.mark.parametrize("form", FORMS)
def test_every_figure_has_its_provenance_beside_it(form):
    require_provenance(FORMS[form](sample()), form=form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("provenance", ["emulated", "simulated", "estimated"])
def test_an_accuracy_that_was_not_measured_is_marked_for_each_organ(form, provenance):
    changed = parts()
    dice = Measurement("dice", 0.877, "1", provenance)
    changed["targets"]["ort"]["dice"] = dice
    word = {"estimated": "est."}.get(provenance, provenance)
    text = FORMS[form](report.assemble(**changed))
    require_provenance(text, [("0.877", "", word), ("0.931", "", word), ("0.815", "", word)], form)


@pytest.mark.parametrize("form", FORMS)
def test_mutant_that_calls_an_estimate_measured_is_caught(form, monkeypatch):
    monkeypatch.setitem(figures.WORDS, "estimated", "measured")
    with pytest.raises(AssertionError, match=r"10\.37 is followed by"):
        require_provenance(FORMS[form](sample()), form=form)


def test_mutant_that_drops_the_badge_is_caught(monkeypatch):
    sources = jinja2.PackageLoader("lmaunet.deploy", "templates")
    environment = jinja2.Environment(autoescape=True)
    texts = {n: sources.get_source(environment, n)[0] for n in sources.list_templates()}
    macros = texts["macros.html.j2"]
    mutant = re.sub(r"(macro badge\(.*?%\}).*?(\{% endmacro)", r"\1\2", macros, count=1)
    assert mutant != macros
    loader = jinja2.DictLoader({**texts, "macros.html.j2": mutant})
    monkeypatch.setattr(jinja2, "PackageLoader", lambda *_: loader)
    with pytest.raises(AssertionError, match=r"10\.37 is followed by"):
        require_provenance(FORMS["html"](sample()), form="html")


def test_mutant_that_drops_the_word_from_the_text_is_caught(monkeypatch):
    monkeypatch.setattr(figures.Shown, "text", lambda self: f"{self.number} {self.unit}")
    with pytest.raises(AssertionError, match=r"1\.23 is followed by"):
        require_provenance(render.markdown(sample()))


def test_an_estimate_also_looks_different():
    page = render.html(sample())
    shown = '<span class="figure estimated"><span class="number">10.37</span>'
    assert page.count(shown) == 2  # its card and its gate
    assert re.search(r"\.badge\.estimated \{[^}]*dashed", page)
    assert re.search(r"\.figure\.estimated \.number[^{]*\{[^}]*italic", page)
