"""What ``doctor`` and tables say: the words follow the facts."""

import pytest

from lmaunet.deploy import doctor
from lmaunet.deploy.console import percent


@pytest.mark.parametrize(
    ("share", "decimals", "text"),
    [(None, 1, "not scored"), (0.0, 1, "0.0"), (0.76234, 2, "76.23"), (1.0, 0, "100")],
)
def test_a_dice_is_a_percentage_or_was_not_scored(share, decimals, text):
    assert percent(share, decimals) == text


def test_a_target_works_where_all_that_it_requires_is_there():
    content, lines, status = doctor.examine()
    assert status == (0 if content["works"] else 3) and content["targets"]["ort"]["works"]
    for name, target in content["targets"].items():
        if "summary" in target:
            word = "works" if target["works"] else "is missing tools"
            assert f"target {name}: {word}" in lines
