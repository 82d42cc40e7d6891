"""What interop knows of one family of published models."""

from typing import Any

from ptjax.config import UserError
from ptjax.data.tokenizers import VocabSpec
from ptjax.interop.tables import Table
from ptjax.models.base import TextModelConfig
from ptjax.objectives.base import Objective


class Family:
    """One `model_type` of transformers. A subclass says how its config.json and its tensors become ours, and back.

    model_type: as in config.json. body: our class. architectures: the name of each of transformers' classes that is
    understood -> the parts of our params that it holds, 'body' among them; the first one that holds all that there is
    to write is what an export is named. mixes: whether its feed-forward parts are experts.
    """

    model_type: str
    body: type[TextModelConfig]
    architectures: dict[str, frozenset[str]]
    mixes: bool = False

    def config(self, theirs: dict[str, Any]) -> TextModelConfig:
        """Our config of a parsed config.json. Raises UserError, naming the key, for what our body cannot do."""
        raise NotImplementedError

    def describe(self, config: TextModelConfig, rows: int) -> dict[str, Any]:
        """The inverse, without architectures: what transformers needs to build the same model. rows: of the vocabulary.

        Raises UserError for what transformers' class cannot do.
        """
        raise NotImplementedError

    def check_special(self, ids: dict[str, int | None]) -> None:
        """Raises UserError for special tokens with which transformers' class computes something else than ours.

        ids: as config.json has them, "pad_token_id"; None for what the vocabulary lacks.
        """

    def table(self, config: TextModelConfig) -> Table:
        """All tensors of all parts; which of the parts a checkpoint has, its names tell."""
        raise NotImplementedError

    def objective(self, parts: frozenset[str]) -> Objective:
        """With what a model of these parts was pre-trained, and whose net reads them."""
        raise NotImplementedError

    def nets(self, config: TextModelConfig, vocab: VocabSpec) -> tuple[Any, ...]:
        """Nets that among them have every leaf of the table: where no one objective's has, more than one."""
        return (self.objective(frozenset(self.table(config).parts())).net(config, vocab),)

    def own(self, config: TextModelConfig) -> bool:
        """Whether `config` is of this family: what an export goes by. Where two families share a class, they tell
        themselves apart here."""
        return type(config) is self.body and (config.experts is not None) == self.mixes


def need(theirs: dict[str, Any], key: str, *supported: Any, default: Any = None) -> Any:
    """The value of `key`, or `default` where it is missing; raises UserError where it is none of `supported`."""
    value = theirs.get(key, default)
    if value not in supported:
        raise UserError(
            f"config.json has {key}={value!r}, which ptjax's {theirs.get('model_type')} does not know: "
            f"it can be {' or '.join(map(repr, supported))}"
        )
    return value
