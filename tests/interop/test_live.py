"""Every family beside the transformers that is installed: `make parity`. Skipped where torch is not."""

import functools
import json
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

from ptjax.interop.huggingface import save
from ptjax.models.heads import init
from tests.interop import parity

NAMES = sorted(folder.name for folder in parity.FAMILIES.iterdir())
SEED = 1_000  # not those of the fixtures
each_family = pytest.mark.parametrize("name", NAMES)
pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def make_families():
    pytest.importorskip("torch", reason="make parity installs torch and transformers")
    from tests.fixtures import make_families

    return make_families


@pytest.fixture(scope="module")
def made(make_families):
    """made(name): a model of the family at new random weights, by transformers, beside ours."""

    @functools.cache
    def make(name: str) -> parity.Parity:
        with tempfile.TemporaryDirectory() as folder:
            make_families.freeze(Path(folder), make_families.CASES[name], SEED)
            return parity.Parity(Path(folder))

    return make


def test_every_fixture_can_be_made_again(make_families):
    assert sorted(make_families.CASES) == NAMES


@each_family
def test_numbers_of_other_weights(made, name):
    case = made(name)
    for layout in parity.LAYOUTS:
        case.check_outputs(layout)
        case.check_gradients(layout)


@each_family
def test_transformers_opens_what_is_exported(made, make_families, name, tmp_path):
    """A model that ptjax has initialised: no tensor is missing or left over there, and the outputs are ours."""
    import torch
    import transformers

    case = made(name)
    fresh, random = jax.jit(lambda: init(case.net, jax.random.key(SEED), 8))(), np.random.default_rng(SEED)
    noisy = lambda leaf: np.asarray(leaf + 0.3 * random.normal(size=leaf.shape), np.float32)  # a bias starts at zero
    params = jax.tree.map(noisy, {part: fresh[part] for part in case.params})
    save(tmp_path, case.config, params, rows=case.rows)

    config = json.loads((tmp_path / "config.json").read_text())
    kind = getattr(transformers, config["architectures"][0])
    model, info = kind.from_pretrained(tmp_path, output_loading_info=True, attn_implementation="eager")
    assert not any(info.values()), info
    assert isinstance(transformers.AutoConfig.from_pretrained(tmp_path), kind.config_class)
    arrays = {key: value for key, value in case.frozen.items() if "/" not in key}
    arrays = {key: value if value.dtype == bool else value.astype(np.int64) for key, value in arrays.items()}
    with torch.no_grad():
        outputs = make_families.run(model.eval(), arrays)
    (_, ours), _ = case.compiled(params, np.ones(2, np.float32))
    for output, value in outputs.items():
        value = value if output in make_families.WHOLE_ROW else value[arrays["valid"]]
        assert value.std() > 0.1
        for layout in parity.LAYOUTS:
            np.testing.assert_allclose(ours[layout][output], value, rtol=1e-4, atol=1e-4, err_msg=f"{output}, {layout}")
