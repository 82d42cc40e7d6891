"""Fixtures that tests of all parts share, and eight host devices to test meshes on."""

import gc
import os
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiling is what costs in these tests, so optimise little.
FLAGS = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true --xla_cpu_parallel_codegen_split_count=1"
)
if version("jaxlib").startswith("0.10."):  # later ones have no other emitters, and XLA aborts on flags it does not know
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{FLAGS} {os.environ.get('XLA_FLAGS', '')}"
# XLA's thread pool is as large as the machine: on two cores, devices that wait for each other could fill it and hang.
os.environ.setdefault("NPROC", "16")
# Tests that compile the same thing share it, and the next run of the suite starts warm.
CACHE = Path(__file__).parents[1] / ".pytest_cache" / "xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import hypothesis
import pytest

hypothesis.settings.register_profile("ptjax", deadline=None)  # machines are shared
hypothesis.settings.load_profile("ptjax")


def pytest_collection_finish():
    """Tracing makes small objects by the million, nearly all of which go by themselves: the collector looks rarely, and
    not again at what is imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)


_crashed = set()


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem, report, sched):
    """A worker whose connection broke takes the test that it ran with it, through no fault of the test: it is run once
    more, which the summary shows, and fails if its worker is gone again."""
    if crashitem not in _crashed:
        _crashed.add(crashitem)
        sched.mark_test_pending(crashitem)
        report.outcome, report.longrepr = "skipped", (str(report.fspath), 0, f"{report.longrepr}; run once more")


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory):
    """A prepared Corpus of about 100 kB of English (topics of Python's `help()`), a paragraph a document; 400 pieces,
    blocks of 128 tokens."""
    from pydoc_data.topics import topics

    from ptjax.data.prepare import Corpus, prepare
    from ptjax.data.sources import TextFiles
    from ptjax.data.tokenizers import SentencePiece

    folder = tmp_path_factory.mktemp("tiny_corpus")
    size = 0
    for name in sorted(topics):
        if 500 < len(topics[name]) < 10_000 and size < 100_000:
            (folder / f"{name}.txt").write_text(topics[name], encoding="utf-8")
            size += len(topics[name])
    corpus = Corpus(
        path=str(folder / "prepared"),
        source=TextFiles(glob=str(folder / "*.txt"), documents="blank_line"),
        validation_fraction=0.1,
        tokenizer=SentencePiece(vocab_size=400),
        block=128,
        shard_blocks=64,
    )
    prepare(corpus)
    return corpus


@pytest.fixture(scope="session")
def trained(tiny_corpus, tmp_path_factory):
    """trained('mlm' | 'causal'): a short run on the tiny corpus that has ended, and its workdir."""
    from tests.small import Runs

    return Runs(tiny_corpus, tmp_path_factory.mktemp("trained")).trained
