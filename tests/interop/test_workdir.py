"""A published model as a workdir: what is done with runs is done with it."""

import json
import shutil

import chz
import jax
import numpy as np
import pytest

import ptjax.generate as generate_module
from experiments import embed, evaluate, generate, pretrain
from ptjax.checkpoint import check_workdir, read_config
from ptjax.config import UserError, from_json, override
from ptjax.data.prepare import Corpus, prepare
from ptjax.data.sources import TextFiles
from ptjax.data.tokenizers import Imported, open_tokenizer
from ptjax.embed import Embedder, Pooling
from ptjax.generate import Predictor, Sampling
from ptjax.interop.export import export_workdir
from ptjax.interop.huggingface import load
from ptjax.interop.sentences import pooling_of
from ptjax.interop.workdir import import_workdir
from ptjax.models import BERT
from ptjax.objectives import NSP, Hybrid
from ptjax.train import Experiment, Run, train
from tests.interop.folders import published_folder
from tests.small import call, same


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return published_folder(tmp_path_factory.mktemp("published") / "bert")


@pytest.fixture(scope="module")
def workdir(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("imported") / "bert"
    found = import_workdir(folder, workdir)
    assert found.parts == {"body", "head", "pooler", "next_sentence"}
    return workdir


@pytest.fixture(scope="module")
def corpus(folder, tmp_path_factory):
    """Text, prepared with their tokenizer."""
    text = tmp_path_factory.mktemp("text")
    words = np.random.default_rng(0).choice("the a cat dog sat on mat old man sea fish".split(), (60, 40))
    (text / "all.txt").write_text("\n\n".join(" ".join(line) + "." for line in words))
    corpus = Corpus(
        path=str(text / "prepared"),
        source=TextFiles(glob=str(text / "all.txt"), documents="blank_line"),
        validation_fraction=0.2,
        tokenizer=Imported(path=str(folder)),
        block=32,
        shard_blocks=64,
    )
    prepare(corpus)
    return corpus


def opened(workdir, *overrides: str) -> Run:
    return Run.open(override(from_json((workdir / "config.json").read_text(), Experiment), overrides))


def test_the_workdir_is_that_of_a_run(folder, workdir):
    run = opened(workdir)
    assert isinstance(run.experiment.model, BERT) and run.experiment.objective == NSP()
    assert run.experiment.data.length == 40 == run.experiment.model.max_length
    theirs = load(folder).params
    assert same(run.restore_params(workdir), theirs)
    assert run.tokenizer.hash == open_tokenizer(folder).hash and run.learner.vocab.size == 90
    assert sorted(path.name for path in workdir.iterdir()) == ["checkpoints", "config.json", "corpus"]
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["0"]


def test_any_number_of_devices_reads(workdir):
    """Only what makes batches asks that they divide."""
    e = opened(workdir).experiment
    run = Run.open(e, jax.devices()[:3])
    vectors = Embedder.of_workdir(run, workdir).embed(["the cat sat."])
    np.testing.assert_allclose(
        vectors, Embedder.of_workdir(opened(workdir), workdir).embed(["the cat sat."]), atol=1e-5
    )
    row = Predictor.of_workdir(run, workdir).encode_masked("the cat <mask> on the mat.")
    assert len(Predictor.of_workdir(run, workdir).fill([row])[0]) == 1
    with pytest.raises(UserError, match="data.batch_size=8 does not divide into .* = 3 shards"):
        run.split("validation")


def test_masks_are_filled(workdir, capsys):
    assert call(generate, f"--workdir={workdir}", "--text=the cat <mask> on the mat.", "--top=3") == 0
    assert capsys.readouterr().out.count("%") == 3


@pytest.mark.parametrize("family, body", [("bert", "mlm"), ("gpt2", "causal")])
def test_what_is_read_is_framed_as_their_tokenizer_frames_it(family, body, tmp_path, monkeypatch):
    """[CLS] before a prompt, and [CLS] and [SEP] around what is filled; text comes back without them."""
    import_workdir(published_folder(tmp_path / family, family), tmp_path / "w")
    predictor = Predictor.of_workdir(opened(tmp_path / "w"), tmp_path / "w")
    ids = predictor.tokenizer.encode("the cat")
    read, answer = [], np.array([[*predictor.tokenizer.encode("sat on")]], np.int32)
    if body == "mlm":
        row = predictor.encode_masked("the cat <mask>")
        assert row.tolist() == [2, *ids, predictor.tokenizer.vocab.mask_id, 3]
        fill = generate_module._fill
        monkeypatch.setattr(generate_module, "_fill", lambda *a: read.append(np.asarray(a[3].tokens)) or fill(*a))
        assert [len(fill.pieces) for fill in predictor.fill([row], top=2)[0]] == [2]
        assert read[0][0, : len(row)].tolist() == row.tolist()
    else:
        monkeypatch.setattr(generate_module, "_continue", lambda *a: read.append(np.asarray(a[6])) or answer)
        (out,) = predictor.sample([ids], Sampling(tokens=2))
        assert read[0].tolist() == [[2, *ids]]
        assert predictor.tokenizer.decode_inside(out) == " sat on"


def test_the_workdir_may_move(folder, tmp_path, tiny_corpus, capsys):
    first, there = tmp_path / "first", tmp_path / "there"
    import_workdir(folder, first, only=("body",))
    first.rename(there)
    assert call(embed, f"--workdir={there}", "--text=a cat", "--text=a dog") == 0
    e = from_json(read_config(there), Experiment)
    assert e.data.corpus.path == str(there / "corpus")
    check_workdir(there, e)  # and is its own still
    other = chz.replace(e, data=chz.replace(e.data, corpus=tiny_corpus, length=32), init_from=str(there))
    with pytest.raises(UserError, match="was trained with the tokenizer in .*there/corpus"):
        Run.open(other).beginning


def test_without_text_nothing_is_trained_or_evaluated(workdir, capsys):
    kept = (workdir / "config.json").read_text()
    for main in (pretrain, evaluate):
        assert call(main, f"--workdir={workdir}") == 2
        error = capsys.readouterr().err
        assert "corpus holds a tokenizer and no text: name a corpus that was prepared with this tokenizer" in error
    assert (workdir / "config.json").read_text() == kept and not (workdir / "metrics.jsonl").exists()


def test_a_head_that_is_missing_is_named(folder, tmp_path, capsys):
    import_workdir(folder, tmp_path / "body", only=("body",))
    assert call(generate, f"--workdir={tmp_path / 'body'}", "--text=a <mask>") == 2
    assert "has no weights of head, only of body" in capsys.readouterr().err
    assert call(embed, f"--workdir={tmp_path / 'body'}", "--text=a cat", "--text=a dog") == 0
    assert "1.000" in capsys.readouterr().out


def test_a_run_begins_with_it(folder, workdir, corpus, tmp_path):
    """From the workdir and from the folder the same; another objective trains on, whose own ids are new."""
    e = opened(workdir).experiment
    data = chz.replace(e.data, corpus=corpus, length=32, batch_size=8)
    model = chz.replace(e.model, max_length=32, dropout=0.0, attention_dropout=0.0)
    e = chz.replace(e, data=data, model=model, objective=Hybrid(), init_from=str(workdir), steps=3)
    run = Run.open(e)
    assert str(run.beginning).endswith("body taken; head taken; next_sentence, pooler left behind; 32 of 40 positions")
    params, theirs = run.init().params, load(folder).params
    assert same(params["head"], theirs["head"]) and same(params["body"]["layers"], theirs["body"]["layers"])
    assert same(Run.open(chz.replace(e, init_from=str(folder))).init().params, params)
    e = chz.replace(e, evaluation=chz.replace(e.evaluation, batches=1))
    state, scores = train(Run.open(e), tmp_path, on_event=lambda _: None)
    begins = json.loads((tmp_path / "begins.json").read_text())
    assert begins["folder"] == str(workdir) and begins["step"] == 0 and len(begins["sha256"]) == 64
    assert int(state.step) == 3 and np.isfinite(scores["loss"])


@pytest.mark.parametrize("source", ["workdir", "folder"])
def test_another_tokenizer_is_refused(source, request, tiny_corpus):
    where = request.getfixturevalue(source)
    e = opened(request.getfixturevalue("workdir")).experiment
    e = chz.replace(e, data=chz.replace(e.data, corpus=tiny_corpus, length=32), init_from=str(where))
    with pytest.raises(
        UserError, match="was trained with the tokenizer in .*, and the corpus is prepared with another"
    ) as caught:
        Run.open(e).beginning
    keys = str(caught.value).split("prepare one with ")[1].split()
    assert override(e, [key.replace("(data.corpus.)", "data.corpus.") for key in keys]).data.corpus.tokenizer
    assert override(e.data.corpus, [key.removeprefix("(data.corpus.)") for key in keys]).tokenizer


@pytest.mark.parametrize("there", ["gone", "damaged"])
def test_without_their_tokenizer_only_as_many_ids_are_taken(there, folder, workdir, corpus, tiny_corpus, tmp_path):
    bare = shutil.copytree(folder, tmp_path / "bare")
    if there == "gone":
        (bare / "vocab.txt").unlink()
    else:
        (bare / "vocab.txt").write_bytes(b"\xff\xfe")
    e = opened(workdir).experiment
    model = chz.replace(e.model, max_length=32)
    for text, message in (corpus, ""), (tiny_corpus, "has a vocabulary of 90 ids, and the corpus's tokenizer makes"):
        data = chz.replace(e.data, corpus=text, length=32)
        run = Run.open(chz.replace(e, data=data, model=model, init_from=str(bare)))
        if there == "gone" and not message:
            assert "; tokenizer not checked" in str(run.beginning)
            continue
        with pytest.raises(UserError, match=message if there == "gone" else "vocab.txt"):
            run.beginning


def test_ids_that_their_tokenizer_lacks_are_the_mean_of_theirs(tmp_path):
    """A vocabulary without [MASK] gets one behind their rows."""
    there = published_folder(tmp_path / "bert")
    pieces = (there / "vocab.txt").read_text().replace("[MASK]", "[unusedx]")
    (there / "vocab.txt").write_text(pieces)
    tokenizer = open_tokenizer(there)
    assert tokenizer.vocab.added and tokenizer.vocab.mask_id >= 90
    found = import_workdir(there, tmp_path / "w")
    assert found.vocab_size == tokenizer.vocab.size
    table = np.asarray(opened(tmp_path / "w").restore_params(tmp_path / "w")["body"]["embed"]["tokens"])
    np.testing.assert_allclose(table[tokenizer.vocab.mask_id], table[:90].mean(0), atol=1e-6)


def test_ids_that_the_objective_adds_have_rows(tmp_path):
    """T5's, whose tokenizer here has no sentinels."""
    import_workdir(published_folder(tmp_path / "t5", "t5"), tmp_path / "w")
    run, pieces = opened(tmp_path / "w"), open_tokenizer(tmp_path / "t5").vocab.size
    assert run.learner.vocab.size == pieces + 100
    table = np.asarray(run.restore_params(tmp_path / "w")["body"]["embed"]["tokens"])
    assert (table[pieces : pieces + 100] == table[pieces]).all() and table[pieces].any()
    assert not table[pieces + 100 :].any()


def test_nothing_is_left_of_what_fails(folder, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="taken is not empty: name another --workdir"):
        import_workdir(folder, tmp_path / "taken")
    broken = shutil.copytree(folder, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])
    with pytest.raises(UserError):
        import_workdir(broken, tmp_path / "w")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "taken"]


# sentence-transformers.


def sentences(folder, to, pooling: dict | None = None, kinds=("Transformer", "Pooling", "Normalize"), **settings):
    """A copy of the folder as sentence-transformers keeps it."""
    shutil.copytree(folder, to)
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in zip(kinds, paths)]
    (to / "modules.json").write_text(json.dumps(modules))
    (to / "1_Pooling").mkdir()
    config = {"word_embedding_dimension": 16, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False}
    (to / "1_Pooling" / "config.json").write_text(json.dumps(config | (pooling or {"pooling_mode_mean_tokens": True})))
    (to / "sentence_bert_config.json").write_text(json.dumps(settings))
    return to


def test_pooling_is_taken_from_where_it_is_published(folder, tmp_path):
    assert pooling_of(folder) is None
    there = sentences(folder, tmp_path / "a", {"pooling_mode_cls_token": True}, max_seq_length=7)
    assert pooling_of(there) == Pooling(pool="cls", normalise=True, length=7)
    import_workdir(there, tmp_path / "w")
    embedder = Embedder.of_workdir(opened(tmp_path / "w"), tmp_path / "w")
    assert embedder.pooling == Pooling(pool="cls", length=7)
    assert embedder.encode("the cat sat on the old mat .").tolist() == [
        2,
        *embedder.tokenizer.encode("the cat sat on the"),
        3,
    ]
    export_workdir(tmp_path / "w", tmp_path / "out")  # and goes out again
    assert pooling_of(tmp_path / "out") == embedder.pooling
    e = opened(tmp_path / "w").experiment  # and into a run that goes on from it
    begun = Run.open(chz.replace(e, init_from=str(tmp_path / "w"))).beginning
    (tmp_path / "run").mkdir()
    begun.record(tmp_path / "run")
    assert Pooling.of_workdir(tmp_path / "run") == embedder.pooling
    assert json.loads((tmp_path / "out" / "1_Pooling" / "config.json").read_text())["word_embedding_dimension"] == 16
    there = sentences(folder, tmp_path / "b", kinds=("Transformer", "Pooling"))
    assert pooling_of(there) == Pooling(pool="mean", normalise=False)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(kinds=("Transformer", "Pooling", "Dense")), "Transformer, Pooling, Dense; ptjax knows"),
        (dict(pooling={"pooling_mode_max_tokens": True}), "pools by pooling_mode_max_tokens; ptjax knows"),
        (
            dict(pooling={"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}),
            "cls_token and pooling_mode",
        ),
        (dict(max_seq_length="long"), "max_seq_length='long', where a number of tokens is wanted"),
        (dict(do_lower_case=True), "asks for lower case"),
    ],
)
def test_a_pipeline_that_ours_is_not_is_refused(folder, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        pooling_of(sentences(folder, tmp_path / "there", **changes))
