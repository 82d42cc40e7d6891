"""Scoring predictions with labels that one side has: right ones to the digit, wrong ones refused by name."""

import functools
import json
from pathlib import Path

import chz
import pytest

from experiments import score as score_main
from ptjax.config import UserError, load
from ptjax.data.examples import ConllExamples, ConlluExamples, JsonExamples, SquadExamples, TableExamples
from ptjax.leaderboard import Suite
from ptjax.leaderboard.lines import read_lines
from ptjax.leaderboard.references import References, write_labels
from ptjax.tasks import MinimalPairs, SequenceRegression
from tests.small import call

ROOT = Path(__file__).parents[1]
COUNT = 20
CONFIG = """
from ptjax.data.examples import JsonExamples
from ptjax.leaderboard import Suite
from ptjax.tasks import QuestionAnswering, SequenceClassification, SequenceRegression, TokenClassification

def get_config():
    def task(kind, name, **columns):
        files = dict(test=f"data/{name}.jsonl")
        return kind(name=name, examples=JsonExamples(**files, **columns), length=256)
    return Suite(name="hand-in", resamples=100, tasks=(
        task(SequenceClassification, "tone"),
        task(SequenceRegression, "stars", number=True),
        task(TokenClassification, "names", words="words"),
        task(QuestionAnswering, "facts", text="question", pair="context", answers="answers"),
    ))
"""
EXAMPLES = {
    "tone": lambda i: {"text": f"text {i}", "label": "good" if i % 3 else "bad"},
    "stars": lambda i: {"text": f"text {i}", "label": i / 2},
    "names": lambda i: {"words": ["Ann", "went", str(i)], "labels": ["B-PER", "O", "O"]},
    "facts": lambda i: {
        "question": "who?",
        "context": f"it was Ann{i} who",
        "answers": [{"text": f"Ann{i}", "answer_start": 7}] if i else [],
    },
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A suite, its labels written, and a folder `team` of right predictions, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hand_in.py").write_text(CONFIG)
    for name, example in EXAMPLES.items():
        write(tmp_path / "data" / f"{name}.jsonl", [{"id": f"{name}-{i}"} | example(i) for i in range(COUNT)])
        write(
            tmp_path / "team" / f"{name}.jsonl",
            [{"id": f"{name}-{i}", "prediction": right(name, i)} for i in range(COUNT)],
        )
    assert score("--write-labels=labels") == 0
    return tmp_path


def right(name: str, i: int):
    example = EXAMPLES[name](i)
    if name == "facts":
        return example["answers"][0]["text"] if example["answers"] else ""
    return example["labels"] if name == "names" else example["label"]


def score(*arguments: str) -> int:
    return call(score_main, "--config=hand_in.py", *arguments, base=Suite, workdir=False, uses_jax=False)


def write(path: Path, lines: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_right_predictions_have_all_points_and_wrong_ones_fewer(folder, capsys):
    lines = read(folder / "team" / "tone.jsonl")
    for task in ("stars", "names", "facts"):
        (folder / "other").mkdir(exist_ok=True)
        (folder / "other" / f"{task}.jsonl").write_bytes((folder / "team" / f"{task}.jsonl").read_bytes())
    write(folder / "other" / "tone" / "0.jsonl", [line | {"prediction": "good"} for line in lines])
    write(folder / "other" / "tone" / "1.jsonl", list(reversed(lines)))  # the order is free
    capsys.readouterr()
    assert score("--labels=labels", "--predictions=team", "--predictions=other", "--json") == 0
    board = json.loads(capsys.readouterr().out)
    team, other = board["submissions"]
    assert (team["name"], other["name"]) == ("team", "other")
    assert team["score"]["mean"] == pytest.approx(1.0)
    share = sum(bool(i % 3) for i in range(COUNT)) / COUNT
    assert other["tasks"]["tone"]["seeds"] == pytest.approx([share, 1.0])
    assert other["score"]["mean"] == pytest.approx((3 + (1 + share) / 2) / 4)
    assert score("--labels=labels", "--predictions=team") == 0
    assert "100.0" in capsys.readouterr().out


def test_who_lacks_a_task_is_incomplete(folder, capsys):
    (folder / "team" / "stars.jsonl").unlink()
    capsys.readouterr()
    assert score("--labels=labels", "--predictions=team", "--json") == 0
    [team] = json.loads(capsys.readouterr().out)["submissions"]
    assert team["missing"] == ["stars"] and team["score"] is None


def test_hidden_copies_can_be_read_and_have_no_labels(folder):
    hidden = {path.stem: read(path) for path in (folder / "labels" / "hidden").glob("*.jsonl")}
    assert set(hidden) == set(EXAMPLES)
    for name, examples in hidden.items():
        assert [x["id"] for x in examples] == [f"{name}-{i}" for i in range(COUNT)]
        assert not any({"label", "labels", "answers"} & set(example) for example in examples)
    given = JsonExamples(test=str(folder / "labels" / "hidden" / "tone.jsonl")).read("test")
    assert given[0] == {"id": "tone-0", "text": "text 0"}
    words = JsonExamples(test=str(folder / "labels" / "hidden" / "names.jsonl"), words="words").read("test")
    assert words[2] == {"id": "names-2", "words": ["Ann", "went", "2"]}
    columns = dict(text="question", pair="context", answers="answers")
    questions = JsonExamples(test=str(folder / "labels" / "hidden" / "facts.jsonl"), **columns).read("test")
    assert questions[3] == {"id": "facts-3", "question": "who?", "context": "it was Ann3 who"}


def test_labels_are_written_once(folder, capsys):
    before = (folder / "labels" / "tone.jsonl").read_bytes()
    assert score("--write-labels=labels") == 2
    assert "is there already" in capsys.readouterr().err
    assert (folder / "labels" / "tone.jsonl").read_bytes() == before


def test_what_cannot_be_hidden_is_said(tmp_path):
    write(tmp_path / "pairs.jsonl", [{"id": "1", "good": "he is", "bad": "he are"}])
    pairs = MinimalPairs(
        name="pairs", examples=JsonExamples(test=str(tmp_path / "pairs.jsonl"), good="good", bad="bad")
    )
    with pytest.raises(UserError, match="examples are their labels"):
        write_labels([pairs], tmp_path / "labels")
    assert not (tmp_path / "labels").exists()


LINE = '{"id": "tone-%d", "prediction": "good"}\n'
GOOD = "".join(LINE % i for i in range(COUNT))
REFUSED = {
    "missing": (GOOD[: -len(LINE % 19)], "1 of 20 examples have no prediction, as 'tone-19'"),
    "surplus": (
        GOOD + '{"id": "x", "prediction": "good"}\n',
        "1 of its ids are none of tone's test examples, as 'x' (line 21)",
    ),
    "twice": (GOOD + LINE % 3, "tone.jsonl:21: id 'tone-3' is in line 4 already"),
    "NaN": (GOOD.replace('"good"', "NaN", 1), "tone.jsonl:1: NaN is not a finite number"),
    "infinite": (GOOD.replace('"good"', "1e999", 1), "tone.jsonl:1: 1e999 is not a finite number"),
    "number": (GOOD.replace('"good"', "1", 1), "tone.jsonl:1, id 'tone-0': a prediction is a label"),
    "null": (GOOD.replace('"good"', "null", 1), "a prediction is a label"),
    "no prediction": (
        GOOD.replace('"prediction"', '"label"', 1),
        "tone.jsonl:1, id 'tone-0': there is no 'prediction'",
    ),
    "no id": (GOOD.replace('"id"', '"name"', 1), "tone.jsonl:1: there is no id"),
    "id a number": (GOOD.replace('"tone-0"', "0", 1), "id 0 is not a text"),
    "id a list": (GOOD.replace('"tone-0"', "[[]]", 1), "id [[]] is not a text"),
    "cut off": (GOOD[:-8], "tone.jsonl:20: not JSON, it seems cut off"),
    "no JSON": ("id,prediction\ntone-0,good\n", "tone.jsonl:1: not JSON"),
    "list": (f"[{GOOD.splitlines()[0]}]\n", "tone.jsonl:1: a line is an object with an id"),
    "deep": ("[" * 100_000 + "\n", "tone.jsonl:1: not JSON"),
    "empty": ("", "tone.jsonl is empty"),
    "blank": ("\n \n", "tone.jsonl is empty"),
    "names of labels": (GOOD.replace('"good"', '"Good"'), "none of its labels, as 'Good', is one of tone's"),
    "half a pair": (GOOD.replace('"good"', '"\\ud83d"', 1), "tone.jsonl:1: it has half of a surrogate pair"),
    "half a pair in an id": (GOOD + LINE.replace("%d", "\\ud83d"), "tone.jsonl:21: it has half of a surrogate pair"),
    "another task": (GOOD.replace("tone-", "facts-"), "these are the ids of another task"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_predictions_that_are_none_are_refused_in_a_line(folder, capsys, name):
    text, message = REFUSED[name]
    (folder / "team" / "tone.jsonl").write_text(text)
    assert score("--labels=labels", "--predictions=team") == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1
    assert "100.0" not in captured.out


def test_predictions_that_miss_everything_are_scored(folder, capsys):
    """Answers are no classes: none has to be a right one."""
    write(folder / "team" / "facts.jsonl", [{"id": f"facts-{i}", "prediction": f"in Ann{i}"} for i in range(COUNT)])
    labels = read(folder / "labels" / "facts.jsonl")
    write(folder / "labels" / "facts.jsonl", [x for x in labels if x["answers"]])
    write(folder / "team" / "facts.jsonl", read(folder / "team" / "facts.jsonl")[1:])
    write(folder / "silent" / "facts.jsonl", [{"id": f"facts-{i}", "prediction": ""} for i in range(1, COUNT)])
    capsys.readouterr()
    assert score("--labels=labels", "--predictions=team", "--predictions=silent", "--json") == 0
    found = {s["name"]: s["tasks"]["facts"]["metrics"] for s in json.loads(capsys.readouterr().out)["submissions"]}
    assert found["team"]["exact_match"] == 0 and found["team"]["f1"] == pytest.approx(2 / 3)
    assert found["silent"] == {"f1": 0, "exact_match": 0}


def test_a_class_that_training_alone_has_seen_is_one(folder, capsys):
    write(folder / "team" / "tone.jsonl", [{"id": f"tone-{i}", "prediction": "so-so"} for i in range(COUNT)])
    assert score("--labels=labels", "--predictions=team") == 2
    assert "none of its labels, as 'so-so'" in capsys.readouterr().err
    assert score("--labels=labels", "--predictions=team", "tasks.0.labels=bad,good,so-so") == 0
    train = [{"id": str(i), "text": f"{i}", "label": "so-so" if i else "good"} for i in range(50)]
    write(folder / "data" / "train.jsonl", train)
    assert score("--labels=labels", "--predictions=team", "tasks.0.examples.train=data/train.jsonl") == 0


@pytest.mark.parametrize(
    "task, prediction, message",
    [
        ("stars", '"3"', "a prediction is a finite number"),
        ("stars", "true", "a prediction is a finite number"),
        ("stars", "1" + "0" * 400, "is not a finite number"),
        ("names", '["O", "O"]', "example 'names-0': 2 tags for its 3 words"),
        ("names", '"O"', "a prediction is a list of tags"),
        ("facts", "null", "a prediction is a text"),
    ],
)
def test_predictions_of_a_wrong_kind_are_refused(folder, capsys, task, prediction, message):
    path = folder / "team" / f"{task}.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([f'{{"id": "{task}-0", "prediction": {prediction}}}', *lines[1:]]))
    assert score("--labels=labels", "--predictions=team") == 2
    assert message in capsys.readouterr().err


def test_bytes_that_are_no_text_are_refused_and_a_mark_of_order_is_not(folder, capsys):
    path = folder / "team" / "tone.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert score("--labels=labels", "--predictions=team") == 0
    path.write_bytes(GOOD.encode("utf-16"))
    assert score("--labels=labels", "--predictions=team") == 2
    assert "is not UTF-8" in capsys.readouterr().err


def test_every_mistake_is_told_at_once(folder, capsys):
    (folder / "team" / "tone.jsonl").write_text("")
    (folder / "team" / "facts.jsonl").write_text("{}")
    (folder / "late").mkdir()
    assert score("--labels=labels", "--predictions=team", "--predictions=late") == 2
    told = capsys.readouterr().err
    assert "tone.jsonl is empty" in told and "facts.jsonl:1" in told and "late has no predictions" in told


def test_files_that_fit_no_task_and_folders_that_are_none_are_refused(folder, capsys):
    for arguments, message in [
        (("--predictions=nowhere",), "there is no folder nowhere"),
        (("--predictions=team", "--predictions=team"), "one folder twice"),
        ((), "--predictions=DIR"),
    ]:
        assert score("--labels=labels", *arguments) == 2
        assert message in capsys.readouterr().err
    assert score("--labels=nowhere", "--predictions=team") == 2
    assert "cannot read nowhere/tone.jsonl" in capsys.readouterr().err
    (folder / "team" / "tones.jsonl").write_text(GOOD)
    assert score("--labels=labels", "--predictions=team") == 2
    assert "there is no task tones; did you mean tone?" in capsys.readouterr().err
    (folder / "team" / "tones.jsonl").unlink()
    write(folder / "team" / "tone" / "0.jsonl", read(folder / "team" / "tone.jsonl"))
    assert score("--labels=labels", "--predictions=team") == 2
    assert "which is it?" in capsys.readouterr().err


def test_labels_that_are_hidden_or_damaged_are_refused(folder, capsys):
    labels, hidden = folder / "labels" / "tone.jsonl", folder / "labels" / "hidden" / "tone.jsonl"
    lines = read(labels)
    labels.write_bytes(hidden.read_bytes())
    assert score("--labels=labels", "--predictions=team") == 2
    assert "has no labels" in capsys.readouterr().err
    write(labels, [{k: v for k, v in lines[0].items() if k != "label"}, *lines[1:]])
    assert score("--labels=labels", "--predictions=team") == 2
    assert "1 of 20 examples have no label, as 'tone-0'" in capsys.readouterr().err


def test_lines_keep_their_numbers(tmp_path):
    (tmp_path / "x.jsonl").write_text('\n{"id": "a"}\n\n{"id": "b\\u2028"}\n')
    assert read_lines(tmp_path / "x.jsonl") == [(2, {"id": "a"}), (4, {"id": "b\u2028"})]


def test_references_of_numbers_are_numbers(folder):
    stars = SequenceRegression(name="stars", examples=JsonExamples(test="data/stars.jsonl", number=True))
    (folder / "labels" / "stars.jsonl").write_text('{"id": "stars-0", "text": "a", "label": "many"}\n')
    with pytest.raises(UserError, match="example 'stars-0'"):
        References.of_labels(stars, folder / "labels")


ENGLISH = {
    "sst2": ("tsv", "train dev test", lambda i: f"text {i}\t{i % 2}\n", "sentence\tlabel\n"),
    "trec": ("tsv", "train test", lambda i: f"what {i}\t{'ABC'[i % 3]}\n", "text\tlabel\n"),
    "rte": (
        "jsonl",
        "train test",
        lambda i: json.dumps(dict(premise=f"a {i}", hypothesis="b", label=i % 2)) + "\n",
        "",
    ),
    "wikiann-en": ("conll", "train dev test", lambda i: f"Ann{i}\tB-PER\nwent\tO\n\n", ""),
    "conll2000-chunking": ("conll", "train test", lambda i: f"it{i} PRP B-NP\nis VBZ B-VP\n\n", ""),
}


@pytest.fixture
def english(tmp_path, monkeypatch) -> Path:
    """Files as configs/suites/english.py wants them, under `data` of the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, (ending, splits, line, head) in ENGLISH.items():
        for split in splits.split():
            path = tmp_path / "data" / name / f"{split}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(head + "".join(map(line, range(COUNT))))
    for split in ("train", "dev"):
        asked = [
            {"id": f"{split}{i}", "question": f"who {i}?", "answers": [{"text": f"Ann{i}", "answer_start": 7}]}
            for i in range(COUNT)
        ]
        paragraphs = [{"context": f"it was {qa['answers'][0]['text']} who", "qas": [qa]} for qa in asked]
        path = tmp_path / "data" / "xquad" / f"{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    return tmp_path


def test_the_commands_of_the_help_work_from_hidden_copies_to_scores(english, capsys):
    """The organiser writes both, a participant reads the copy as test and predicts, the organiser scores."""
    commands = [line.split()[3:] for line in score_main.__doc__.splitlines() if line.startswith("python")]
    commands = [[word.replace("configs/", f"{ROOT}/configs/", 1) for word in command] for command in commands]
    english_main = functools.partial(call, score_main, base=Suite, workdir=False, uses_jax=False)
    assert english_main(*commands[0]) == 0
    suite = load(f"{ROOT}/configs/suites/english.py:data=data", [], Suite)
    for task in suite.tasks:
        copy = english / "labels" / "hidden" / f"{task.name}.jsonl"
        given = chz.replace(task.examples, test=str(copy))
        hidden, own = given.read("test"), task.examples.read("test")
        assert [x["id"] for x in hidden] == [x["id"] for x in own] and len(own) == COUNT
        assert not any({"label", "labels", "answers"} & x.keys() for x in hidden)
        assert all(x == {key: y[key] for key in x} for x, y in zip(hidden, own))
        assert References.read(chz.replace(task, examples=given)).split == "validation"
        own = [
            {"id": x["id"], "prediction": task.reference(x)[0] if "answers" in x else task.reference(x)} for x in own
        ]
        write(english / "team" / f"{task.name}.jsonl", own)
    capsys.readouterr()
    assert english_main(*commands[1], "--json") == 0
    [team] = json.loads(capsys.readouterr().out)["submissions"]
    assert team["complete"] and team["score"]["mean"] == 1.0


@pytest.mark.parametrize("kind", [TableExamples, ConllExamples, ConlluExamples, SquadExamples])
@pytest.mark.parametrize(
    "line, message",
    [
        ('{"id": "1", "text": "a", "label": "b"}', "holds id, label, text. JsonExamples reads others"),
        ('{"text": "a"}', "reads only test examples without labels"),
        ('{"id": "1", "te', "not a JSON object, or cut off"),
        ("a\tb", "not a JSON object"),
        ('{"id": "1", "words": "a"}', "words is a list of texts"),
        ('{"id": 1, "text": "a"}', "id holds int, not text"),
    ],
)
def test_lines_of_json_that_are_no_hidden_examples_are_never_read_as_another_format(tmp_path, kind, line, message):
    (tmp_path / "a.jsonl").write_text('{"id": "0", "text": "a"}\n' + line + "\n")
    with pytest.raises(UserError) as caught:
        kind(test=str(tmp_path / "a.jsonl")).read("test")
    assert f"{tmp_path}/a.jsonl:2: " in str(caught.value) and message in str(caught.value)
    with pytest.raises(UserError, match="of train"):
        kind(train=str(tmp_path / "a.jsonl"), validation=str(tmp_path / "a.jsonl")).read("train")


def test_a_copy_is_read_whatever_the_columns_are_called(tmp_path):
    write(tmp_path / "raw.jsonl", [{"id": "x", "question": "q", "context": "c"}])
    write(tmp_path / "copy.jsonl", [{"id": "x", "text": "q", "pair": "c"}])
    for name in ("raw", "copy"):
        examples = JsonExamples(test=str(tmp_path / f"{name}.jsonl"), text="question", pair="context")
        assert examples.read("test") == [{"id": "x", "text": "q", "pair": "c"}]
