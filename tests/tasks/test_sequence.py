"""One answer a text: rows, metrics and predictions."""

import types

import chz
import numpy as np
import pytest

from configs import finetune
from ptjax.config import UserError, from_json, to_json
from ptjax.data.examples import JsonExamples, NoExamples
from ptjax.finetune import FineTuned
from ptjax.leaderboard.references import References
from ptjax.models.bert import BERT
from ptjax.models.t5 import T5
from ptjax.tasks import LoRA, SequenceClassification, SequenceRegression, Task, TokenClassification
from ptjax.train import Experiment
from ptjax.weights import config_of
from tests.contracts import cases
from tests.data import published

TASK = SequenceClassification(name="tiny", examples=NoExamples(), metric="macro_f1", length=16)


def examples(labels):
    return [{"id": str(i), "text": f"text {i}", "label": label} for i, label in enumerate(labels)]


def test_a_class_that_only_predictions_have_counts_as_in_scikit_learn(tmp_path):
    """In a fine-tuning and on a leaderboard alike."""
    answers = [{"id": str(i), "prediction": label} for i, label in enumerate("acb")]
    sklearn = pytest.importorskip("sklearn.metrics")
    wanted = sklearn.f1_score(list("aab"), list("acb"), average="macro")
    assert wanted == pytest.approx(5 / 9)
    assert TASK.resolved(examples("abc")).score(answers, examples("aab"))["macro_f1"] == pytest.approx(wanted)

    for split, labels in {"train": "abc", "validation": "ab", "test": "aab"}.items():
        lines = [f'{{"id": "{x["id"]}", "text": "{x["text"]}", "label": "{x["label"]}"}}\n' for x in examples(labels)]
        (tmp_path / f"{split}.jsonl").write_text("".join(lines))
    paths = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation", "test")}
    files = JsonExamples(**paths)
    task = chz.replace(TASK, examples=files)
    (tmp_path / "tiny.jsonl").write_text((tmp_path / "test.jsonl").read_text())
    for references in (References.read(task), References.of_labels(task, tmp_path)):
        scores = references.task.score(answers, references.examples)
        assert scores["macro_f1"] == pytest.approx(wanted)
        assert scores["mcc"] == pytest.approx(sklearn.matthews_corrcoef(list("aab"), list("acb")))


def test_small_numbers_stay_apart():
    task = SequenceRegression(name="tiny", examples=NoExamples(), center=2e-7, spread=1e-7)
    answers = task.answers(examples("abc"), None, {"value": np.float32([-1, 0, 0.25])}, None)
    assert [answer["prediction"] for answer in answers] == pytest.approx([1e-7, 2e-7, 2.25e-7], rel=1e-6)


def test_the_closing_token_of_xlnet_has_a_type_of_its_own(opened):
    xlnet, bert = opened(published.xlnet), opened(published.bert)
    one, two = {"id": "a", "text": "the class"}, {"id": "b", "text": "the class", "pair": "the"}
    for some, wanted in (([one], [0, 2]), ([one, two], [0, 2]), ([two], [1, 2])):
        encoded = TASK.encode(some, xlnet)
        kinds = encoded.tokens["types"][0, : encoded.size[0]].tolist()
        assert kinds[-2:] == wanted and set(kinds[:-2]) <= {0, 1}
    assert "types" not in TASK.encode([one], bert).tokens
    words = TokenClassification(name="tags", examples=NoExamples(), labels=("O",), usual="O", length=16, stride=2)
    encoded = words.encode([{"id": "a", "words": ["the", "class"] * 12}], xlnet)
    assert len(encoded) > 1
    for kinds, size in zip(encoded.tokens["types"], encoded.size):
        assert kinds[: size - 1].max() == 0 and kinds[size - 1] == 2
    assert "types" not in words.encode([{"id": "a", "words": ["the"]}], bert).tokens

    for tokenizer, pool in ((xlnet, "last"), (bert, "mean")):
        start = types.SimpleNamespace(tokenizer=tokenizer, causal=False, source=types.SimpleNamespace(shapes={}))
        assert TASK.fitted(start).pool == pool


def test_a_text_of_nothing_is_read(opened):
    """Between its frame, or as the boundary; words alike."""
    words = TokenClassification(name="tags", examples=NoExamples(), labels=("O",), usual="O", length=16, stride=2)
    for kind in (published.gpt2, published.bert):
        tokenizer = opened(kind)
        rows = [TASK.encode([{"id": "a", "text": ""}], tokenizer), words.encode([{"id": "a", "words": []}], tokenizer)]
        wanted = list(sum(tokenizer.framing, ())) or [tokenizer.vocab.boundary_id]
        assert [row.tokens["tokens"].tolist() for row in rows] == [[wanted], [wanted]]


def test_pairs_are_tokenized_together(opened, monkeypatch):
    bert = opened(published.bert)
    calls, read = [], bert.encode_batch
    pairs = [{"id": str(i), "text": f"a {i}"} | ({"pair": f"the {i}"} if i % 2 else {}) for i in range(6)]
    alone = [TASK.encode([pair], bert) for pair in pairs]
    monkeypatch.setattr(bert, "encode_batch", lambda texts: calls.append(texts) or read(texts))
    encoded = TASK.encode(pairs, bert)
    assert len(calls) == 2
    for row, one in enumerate(alone):
        assert encoded.size[row] == one.size[0]
        assert encoded.tokens["tokens"][row, : one.size[0]].tolist() == one.tokens["tokens"][0].tolist()


def test_a_decoder_that_is_not_read_neither_learns_nor_costs():
    task = chz.replace(TASK, labels=("a", "b"))
    body = T5(layers=2, width=16, heads=2, hidden=32, head_dim=8)
    half = task.flops_per_row(body, 16, cases.VOCAB)
    assert half == 2 * body.layers * 16 * (4 * 16 * 16 + 2 * 16 * 32 + 2 * 16 * 16)
    assert task.flops_per_row(BERT(layers=2, width=16, heads=2, hidden=32), 16, cases.VOCAB) > 0
    for tuning in (task.tuning, LoRA()):
        one = chz.replace(task, tuning=tuning)
        assert not one.learns(("body", "decoder", "layers", "attention", "query", "kernel"))
        assert not one.learns(("adapter", "body", "decoder", "layers", "attention", "query", "kernel", "a"))
    assert one.learns(("adapter", "body", "encoder", "layers", "attention", "query", "kernel", "a"))


def test_a_fine_tuned_folder_says_what_it_is_for(tmp_path):
    config = FineTuned(model=BERT(), objective=chz.replace(TASK, labels=("a", "b")))
    assert from_json(to_json(config), FineTuned) == config and isinstance(config.objective, Task)
    with pytest.raises(UserError, match="config of a FineTuned, where Experiment is wanted: .*--from=DIR"):
        from_json(to_json(config), Experiment)
    best = tmp_path / "best"
    best.mkdir()
    for folder in (tmp_path, best):
        (folder / "config.json").write_text(to_json(config))
    assert config_of(best)[0] == best
    with pytest.raises(UserError, match=f"is the workdir of a fine-tuning: its model is {best}"):
        config_of(tmp_path)


def test_a_file_of_ones_own_names_its_task():
    for train, name in {
        "data/sst2/train.tsv": "sst2",
        "data/rte/train*.jsonl.gz": "rte",
        "my reviews.csv": "my_reviews",
        "data/sst2/small-train.tsv": "small-train",
    }.items():
        assert finetune.get_config(train=train).task.name == name
    assert finetune.get_config(task="mine", train="sst2/train.tsv").task.name == "mine"
    assert finetune.get_config().task.name == "packages"
    with pytest.raises(UserError, match="task=packages is of the standard library: leave train=x.tsv out"):
        finetune.get_config(task="packages", train="x.tsv")
