"""What tests of tasks share."""

import pytest

from ptjax.data.tokenizers import open_tokenizer


@pytest.fixture(scope="session")
def opened(tmp_path_factory):
    """The tokenizer of a kind of `tests.data.published`, made when it is asked for."""
    made = {}

    def opened(kind):
        if kind not in made:
            made[kind] = open_tokenizer(kind(tmp_path_factory.mktemp("tokenizer") / "published"))
        return made[kind]

    return opened
