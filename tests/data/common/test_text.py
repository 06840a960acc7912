"""Names that users choose, and tables of text."""

import pytest

from data.common.text import format_row, is_valid_name, wrap_words


@pytest.mark.parametrize(
    ("name", "valid"),
    [("msd", True), ("Göttingen_2.1-b", True), ("", False), (".hidden", False), ("a/b", False), ("a b", False)],
)
def test_names_become_folder_names(name, valid):
    assert is_valid_name(name) is valid


def test_a_row_has_as_many_lines_as_its_tallest_cell():
    assert format_row([["a", "b"], ["long cell"], ["end"]], [3, 9, 3]) == "a    long cell  end\nb"


def test_addresses_are_not_broken():
    assert wrap_words("see https://example.org/a-long-address now", 10) == [
        "see",
        "https://example.org/a-long-address",
        "now",
    ]
