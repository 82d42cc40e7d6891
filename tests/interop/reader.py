"""Stands in for ptjax.interop.huggingface until that is there."""

import dataclasses
import json
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file

from ptjax.data.tokenizers import VocabSpec
from ptjax.interop.families import FAMILIES
from ptjax.models.heads import init


@dataclasses.dataclass
class Loaded:
    config: Any
    params: Any
    family: Any
    theirs: dict


def load(folder) -> Loaded:
    theirs = json.loads((folder / "config.json").read_text())
    (family,) = (f for f in FAMILIES if f.model_type == theirs["model_type"])
    config, tensors = family.config(theirs), load_file(folder / "model.safetensors")
    table, parts = family.table(config), family.architectures[theirs["architectures"][0]]
    net = family.objective(parts).net(config, VocabSpec.synthetic(theirs["vocab_size"]))
    shapes = flatten_dict(jax.eval_shape(lambda: init(net, jax.random.key(0), 8)), sep="/")
    leaves = {}
    for entry in table.entries:
        if entry.ours.partition("/")[0] in parts:
            leaf = leaves[entry.ours] = np.zeros(shapes[entry.ours].shape, np.float32)
            for index, name in entry.tensors():
                value = entry.ours_of(tensors[name], leaf[index].shape)
                leaf[index][: len(value)] = value
    return Loaded(config, unflatten_dict(leaves, sep="/"), family, theirs)
