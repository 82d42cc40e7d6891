"""Every family: the numbers of transformers, frozen by tests/fixtures/make_families.py, and its files both ways."""

import itertools
import json
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from ptjax.config import UserError
from ptjax.interop.families import FAMILIES
from ptjax.interop.huggingface import load, save
from tests.interop import parity

NAMES = sorted(folder.name for folder in parity.FAMILIES.iterdir())
each_family = pytest.mark.parametrize("name", NAMES)
each_layout = pytest.mark.parametrize("layout", parity.LAYOUTS)


def test_every_family_has_a_fixture():
    assert {parity.frozen(name).theirs["model_type"] for name in NAMES} == {family.model_type for family in FAMILIES}


@each_layout
@each_family
def test_outputs(name, layout):
    parity.frozen(name).check_outputs(layout)


@each_layout
@each_family
def test_gradients(name, layout):
    parity.frozen(name).check_gradients(layout)


@each_family
def test_any_two_tensors_that_change_places_are_noticed(name):
    case = parity.frozen(name)
    leaves = flatten_dict(case.params, sep="/")
    swaps = 0
    for a, b in itertools.combinations(sorted(leaves), 2):
        if leaves[a].shape == leaves[b].shape:
            swapped = unflatten_dict(leaves | {a: leaves[b], b: leaves[a]}, sep="/")
            with pytest.raises(AssertionError):
                case.check_outputs("padded", swapped)
            swaps += 1
    assert swaps > 3


@each_family
def test_export_is_what_was_imported(name, tmp_path):
    folder = parity.FAMILIES / name
    loaded = load(folder)
    save(tmp_path, loaded.config, loaded.params, rows=loaded.theirs["vocab_size"])
    before, after = (load_file(place / "model.safetensors") for place in (folder, tmp_path))
    assert before.keys() == after.keys()
    for tensor, value in before.items():
        assert value.dtype == after[tensor].dtype
        np.testing.assert_array_equal(value, after[tensor], err_msg=tensor)
    again = load(tmp_path)
    assert again.config == loaded.config
    jax.tree.map(np.testing.assert_array_equal, again.params, loaded.params)
    theirs = json.loads((folder / "config.json").read_text())
    ours = json.loads((tmp_path / "config.json").read_text())
    assert ours["architectures"] == theirs["architectures"]
    # Nothing is said otherwise: what we leave out has no part in the numbers.
    both = (ours.keys() & theirs.keys()) - {"transformers_version"}
    assert {key: ours[key] for key in both} == {key: theirs[key] for key in both}


@each_family
def test_no_tensor_is_missing_and_none_is_left_over(name, tmp_path):
    shutil.copytree(parity.FAMILIES / name, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    # of a part that stays, or the part would be missing as a whole
    lost = next(name for name in tensors if "layer" in name or ".h." in name or "block" in name)
    save_file({name: value for name, value in tensors.items() if name != lost}, file)
    with pytest.raises(UserError, match=lost.replace(".", r"\.")):
        load(tmp_path)
    save_file(tensors | {"surplus.weight": np.ones(3, np.float32)}, file)
    with pytest.raises(UserError, match="surplus.weight"):
        load(tmp_path)
