"""The table of contents lists what works, and needs nothing to be read."""

import subprocess
import sys

import pytest

from ommatid import catalogue
from ommatid.api import method_class
from ommatid.engine.method import Method
from ommatid.errors import InputError


@pytest.mark.parametrize("statement", ["import ommatid", "from ommatid import catalogue, errors", "import ommatid.cli"])
def test_importing_does_not_import_torch(statement):
    code = f"{statement}; import sys; print([m for m in ('torch', 'torchvision', 'lightning') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_are_found_by_field():
    assert catalogue.names() == [entry.name for entry in catalogue.CATALOGUE]
    assert [name for field in catalogue.FIELDS for name in catalogue.names(field)] != []
    assert sorted(name for field in catalogue.FIELDS for name in catalogue.names(field)) == sorted(catalogue.names())
    assert catalogue.names("no such field") == []


# A paper with two methods: what explains distillation, and the block that came of it.
TWO_METHODS = {"2105.04181": {"kdexplainer", "vam"}}


def test_entries_do_not_share_a_name_a_class_or_a_paper():
    for attribute in ("name", "class_name"):
        values = [getattr(entry, attribute) for entry in catalogue.CATALOGUE]
        assert len(set(values)) == len(values)
    for arxiv in {entry.arxiv for entry in catalogue.CATALOGUE}:
        sharing = {entry.name for entry in catalogue.CATALOGUE if entry.arxiv == arxiv}
        assert len(sharing) == 1 or sharing == TWO_METHODS[arxiv]


@pytest.mark.parametrize("entry", catalogue.CATALOGUE, ids=catalogue.names())
def test_every_entry_is_a_method_that_can_be_built(entry):
    kind = method_class(entry.name)
    assert issubclass(kind, Method)
    assert kind.__name__ == entry.class_name
    assert entry.field in catalogue.FIELDS
    assert entry.target.startswith(f"ommatid.{entry.field}.")
    assert kind.embedded
    assert entry.baseline == (not kind.claims)
    assert catalogue.find(entry.name) is entry
    assert catalogue.find_class(entry.class_name) is entry


@pytest.mark.parametrize("entry", catalogue.CATALOGUE, ids=catalogue.names())
def test_bibtex_cites_the_paper(entry):
    text = entry.bibtex()
    published = entry.venue != catalogue.PREPRINT
    assert text.startswith("@inproceedings{" if published else "@misc{")
    assert text.count("{") == text.count("}")
    for part in (entry.title, entry.authors, *([entry.venue] * published), str(entry.year), entry.arxiv):
        assert f"{{{part}}}" in text
    assert entry.paper == f"arXiv:{entry.arxiv}"


def test_misspelt_method_is_answered_with_the_nearest():
    with pytest.raises(InputError, match=r"^unknown method 'mgslnet': did you mean 'mgsl-net'\?$"):
        catalogue.find("mgslnet")
    assert catalogue.find_class("Nobody") is None
