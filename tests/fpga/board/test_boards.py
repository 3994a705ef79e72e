from __future__ import annotations

import pytest

from lmaunet.errors import UserError
from lmaunet.fpga.board.boards import BOARDS, larger_board, named_board


def test_names_are_found_in_any_case():
    assert named_board("zcu104") is BOARDS["ZCU104"]


def test_an_unknown_board_lists_the_known_ones():
    with pytest.raises(UserError) as caught:
        named_board("zcu1")
    expected = "unknown board 'zcu1'; use one of: Ultra96, KV260, ZCU104, ZCU102, U250"
    assert str(caught.value) == expected


def test_each_board_has_a_larger_one_but_the_last():
    names = list(BOARDS)
    for name, larger in zip(names, [*names[1:], None], strict=True):
        found = larger_board(BOARDS[name])
        assert (found.name if found else None) == larger
