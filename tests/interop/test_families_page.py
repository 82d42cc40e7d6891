"""docs/families.md says what is so."""

from tests.interop.families_page import PAGE, with_table


def test_the_table_is_what_the_families_are():
    page = PAGE.read_text()
    assert page == with_table(page, tried=False), "python -m tests.interop.families_page makes it anew"
    assert "✗" not in page
