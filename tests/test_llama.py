"""Llama's body: its published sizes, rotary positions, the cache, keys shared by queries on a mesh.

That its numbers are those of transformers, packed or not, tests/interop/test_families.py sees.
"""

import functools
import math

import chz
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptjax import config as configs
from ptjax.config import UserError
from ptjax.learner import Learner
from ptjax.models import Llama
from ptjax.models.heads import init, language_model, new_cache
from ptjax.models.llama import SIZES, LinearScaling, Llama3Scaling
from ptjax.partition import MeshConfig, Rules, make_mesh
from ptjax.types import Mask, TextInput
from tests.contracts import cases

# Vocabulary, and parameters as transformers 5.23 counts them of the published config.json.
COUNTS = {
    "tinyllama-1.1B": (32_000, 1_100_048_384),
    "llama2-7B": (32_000, 6_738_415_616),
    "llama2-13B": (32_000, 13_015_864_320),
    "llama2-70B": (32_000, 68_976_648_192),
    "llama3.1-8B": (128_256, 8_030_261_248),
    "llama3.1-70B": (128_256, 70_553_706_496),
    "llama3.2-1B": (128_256, 1_235_814_400),
    "llama3.2-3B": (128_256, 3_212_749_824),
    "mistral-7B": (32_000, 7_241_732_096),
    "mixtral-8x7B": (32_000, 46_702_792_704),
    "qwen2.5-0.5B": (151_936, 494_032_768),
    "qwen2.5-1.5B": (151_936, 1_543_714_304),
    "qwen2.5-3B": (151_936, 3_085_938_688),
    "qwen2.5-7B": (152_064, 7_615_616_512),
    "qwen3-0.6B": (151_936, 596_049_920),
    "qwen3-1.7B": (151_936, 1_720_574_976),
    "qwen3-4B": (151_936, 4_022_468_096),
    "qwen3-8B": (151_936, 8_190_735_360),
    "qwen3-30B-A3B": (151_936, 30_532_122_624),
}
# Of transformers 5.23 for heads of 64, theta 5e5 and original_max_position_embeddings 8192: the 15th to the 20th, where
# the scaling sets in, and the first and the last.
LLAMA3_FREQUENCIES = {
    8.0: [3.2114461e-03, 1.3718937e-03, 5.2484602e-04, 1.7850779e-04, 7.7846555e-05, 5.1659070e-05, 1.0, 3.7673226e-07],
    32.0: [
        3.2114461e-03,
        1.2905480e-03,
        4.2955671e-04,
        9.7082862e-05,
        1.9461639e-05,
        1.2914767e-05,
        1.0,
        9.4183065e-08,
    ],
}
SMALL = Llama(
    layers=2,
    width=16,
    heads=4,
    kv_heads=2,
    head_dim=6,
    hidden=24,
    qkv_bias=True,
    qk_norm=True,
    window=5,
    scaling=Llama3Scaling(original_length=16),
    theta=100.0,
    unroll=False,
)


def net_of(config, vocab_size=90):
    return language_model(config, vocab_size, transform=False, bias=False)


def shapes(config, vocab_size=90):
    config = chz.replace(config, vocab_multiple=1, unroll=False)
    return jax.eval_shape(lambda: init(net_of(config, vocab_size), jax.random.key(0), 1))


@functools.cache
def small_params():
    """Nothing in them is 0 or 1."""
    leaves, tree = jax.tree.flatten(shapes(SMALL, net_of(SMALL).head.vocab_size))
    random = np.random.default_rng(0)
    return tree.unflatten([jnp.asarray(random.normal(0, 0.5, leaf.shape), jnp.float32) for leaf in leaves])


def test_every_published_size_is_counted():
    assert {name for name in SIZES if "-" in name} == COUNTS.keys()


@pytest.mark.parametrize("name", COUNTS)
def test_published_sizes(name):
    vocab_size, expected = COUNTS[name]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes(Llama.preset(name), vocab_size))) == expected


@pytest.mark.parametrize("factor", LLAMA3_FREQUENCIES)
def test_frequencies_of_llama_3(factor):
    config = Llama(width=128, heads=2, theta=5e5, scaling=Llama3Scaling(factor=factor))
    frequencies = np.asarray(config.frequencies())
    np.testing.assert_allclose(frequencies[[*range(14, 20), 0, -1]], LLAMA3_FREQUENCIES[factor], rtol=1e-5)


def test_frequencies_scaled_linearly():
    config = Llama(width=128, heads=2, scaling=LinearScaling(factor=4.0))
    expected = [0.25, 0.18747355, 0.14058533, 0.10542413]  # of transformers 5.23
    np.testing.assert_allclose(config.frequencies()[:4], expected, rtol=1e-6)


@pytest.mark.parametrize("window", [None, 5])
def test_cache_in_any_pieces(window):
    config = chz.replace(SMALL, window=window)
    net, params = net_of(config), small_params()
    tokens = np.random.default_rng(1).integers(0, 90, (2, 16)).astype(np.int32)
    positions = np.broadcast_to(np.arange(16, dtype=np.int32), (2, 16))

    @jax.jit
    def read(inputs, cache):
        hidden = net.apply({"params": params}, inputs, cache, method="hidden")
        return net.apply({"params": params}, hidden.last, method="logits"), hidden.state

    expected, _ = read(TextInput(tokens, positions, Mask(causal=True)), None)
    cache, parts = new_cache(config, 2, 16), []
    assert cache.key.shape == (2, 2, 16, 2, 6)  # two heads are kept of four
    for piece in (slice(0, 9), slice(9, 10), slice(10, 16)):
        part, cache = read(TextInput(tokens[:, piece], positions[:, piece], Mask(causal=True)), cache)
        parts.append(part)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, atol=1e-4)
    assert np.std(expected) > 0.1


def test_positions_and_not_places_tell_distance_in_a_scattered_row():
    net, params = net_of(SMALL), small_params()
    random = np.random.default_rng(2)
    tokens, order = random.integers(0, 90, (1, 16)).astype(np.int32), random.permutation(16)
    positions = np.arange(16, dtype=np.int32)[None]
    read = jax.jit(lambda inputs: net.apply({"params": params}, inputs, method="hidden").last)
    expected = read(TextInput(tokens, positions, Mask(causal=False)))
    scattered = read(TextInput(tokens[:, order], positions[:, order], Mask(causal=False), scattered=True))
    np.testing.assert_allclose(scattered, expected[:, order], atol=1e-4)


def test_flops_are_those_of_the_kernels_and_of_what_is_seen():
    config = chz.replace(SMALL, window=None)
    kernels = jax.tree_util.tree_flatten_with_path(shapes(config)["body"]["layers"])[0]
    multiplied = sum(math.prod(leaf.shape) for path, leaf in kernels if path[-1].key == "kernel")
    scores = 2 * 2 * config.layers * 4 * 6  # products with keys and with values: four heads of 6
    assert config.flops_per_token(100) == 2 * multiplied + 100 * scores
    assert SMALL.flops_per_token(100) == 2 * multiplied + 5 * scores


def test_few_heads_of_keys_on_a_mesh_that_does_not_divide_them():
    """The mesh divides the queries' heads in four, and keys have two: kept whole, as the message says, the numbers are
    those of one device."""
    body = chz.replace(SMALL, layers=1, head_dim=4, window=None)
    tensor = dict(data=2, tensor=4)
    mesh = MeshConfig(**tensor)
    message = "attention.key.* has 2 along 'kv_heads', which mesh.tensor=4 does not divide.*mesh.rules.kv_heads=None"
    with pytest.raises(UserError, match=message):
        Learner(cases.experiment("CausalLM", body, mesh=mesh), cases.VOCAB).shardings(make_mesh(mesh))
    trained = []
    for mesh in (cases.ONE, MeshConfig(**tensor, rules=Rules(kv_heads=None))):
        trainer = cases.Trainer(cases.experiment("CausalLM", body, mesh=mesh))
        trainer.train([cases.batch(0)])
        trained.append(trainer.params)
    assert cases.distance(*trained) < 2e-5


def test_sizes_that_cannot_be():
    for sizes, message in (
        (dict(heads=4, kv_heads=3), "heads=4 cannot share kv_heads=3"),
        (dict(heads=4, kv_heads=0), "cannot share kv_heads=0"),
        (dict(head_dim=5), "heads of size 5 cannot turn"),
        (dict(width=10, heads=3), "width=10 is not divisible by heads=3"),
        (dict(window=0), "window=0 must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            Llama(**sizes)
    with pytest.raises(UserError, match="llama3.2-1B"):
        Llama.preset("7B")


def test_scaling_is_set_by_its_class():
    config = configs.override(Llama(), ["scaling=Llama3Scaling", "scaling.factor=4"])
    assert config.scaling == Llama3Scaling(factor=4.0)
    assert configs.from_json(configs.to_json(config)) == config
    assert configs.override(config, ["scaling=None"]) == Llama()
