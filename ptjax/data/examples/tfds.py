"""Data sets of TensorFlow Datasets, without TensorFlow."""

from typing import Any

import chz

from ptjax.config import UserError
from ptjax.data.examples.columns import ColumnExamples, Row
from ptjax.data.files import decode, listed
from ptjax.data.sources import open_tfds


@chz.chz
class TfdsExamples(ColumnExamples):
    """A data set that was prepared as array_record; its features are the columns, classes go by their names, and a
    class of -1 is a hidden label."""

    name: str = chz.field(doc="data set, such as 'glue/sst2', 'super_glue/copa:1.0.3', 'squad', 'imdb_reviews'")
    train: str | None = chz.field(default=None, doc="split of the training examples; None: 'train'; also 'train[:10%]'")
    validation: str | None = chz.field(
        default=None, doc="None: 'validation', if there is one; of glue/mnli, 'validation_matched'"
    )
    test: str | None = chz.field(default=None, doc="None: 'test', if there is one; of glue/mnli, 'test_matched'")
    data_dir: str | None = chz.field(default=None, doc="where TFDS keeps its data sets; None for ~/tensorflow_datasets")

    @property
    def available(self):
        known = set(open_tfds(self.name, self.data_dir, "examples.name").info.splits)
        for split in ("validation", "test"):
            near = sorted(name for name in known if name.startswith(f"{split}_"))
            if near and split not in known and getattr(self, split) is None:
                raise UserError(f"the TFDS data set {self.name} has the splits {listed(near)}: examples.{split} is one")
        return tuple(s for s in ("train", "validation", "test") if getattr(self, s) is not None or s in known)

    def rows(self, split):
        builder = open_tfds(self.name, self.data_dir, "examples.name")
        name = getattr(self, split) or split
        try:
            records = builder.as_data_source(split=name)
        except ValueError as error:
            known = listed(builder.info.splits)
            raise UserError(f"examples.{split}={name!r}: {error}; splits are {known}") from error
        features = builder.info.features
        for number, record in enumerate(records):
            origin = f"{self.name}[{name}] record {number}"
            cells = {key: _plain(record[key], feature, origin) for key, feature in features.items()}
            yield Row(origin, f"{split}-{number}", "", split, cells)


def _plain(value: Any, feature, origin: str) -> Any:
    """As JSON would have it; None for a class of -1."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.ClassLabel):
        return feature.int2str(int(value)) if value >= 0 else None
    if isinstance(feature, tfds.features.Sequence):
        inner = feature.feature
        if isinstance(inner, tfds.features.FeaturesDict):
            return {key: [_plain(item, inner[key], origin) for item in value[key]] for key in inner}
        return [_plain(item, inner, origin) for item in value]
    if isinstance(feature, tfds.features.FeaturesDict):
        return {key: _plain(value[key], inner, origin) for key, inner in feature.items()}
    if isinstance(value, bytes):
        return decode(value, origin, None)
    return value.tolist() if hasattr(value, "tolist") else value
