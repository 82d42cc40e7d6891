"""Readers of labelled examples: what each format gives, and what is said about files that are wrong."""

import gzip
import json
import os
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import ptjax.data.examples
from ptjax.config import UserError, from_json, override, to_json
from ptjax.data.examples import (
    ConllExamples,
    ConlluExamples,
    JsonExamples,
    SquadExamples,
    TableExamples,
    TfdsExamples,
)

DATA = Path(os.environ.get("PTJAX_SHARED_DATA", Path(__file__).parents[2] / "../shared/data"))


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def write_rows(path, rows):
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def error_of(examples, split="train"):
    with pytest.raises(UserError) as error:
        list(examples.load(split))
    return str(error.value)


# Tables.


def test_tsv_takes_quotes_as_they_stand(tmp_path):
    path = write(tmp_path / "a.tsv", '\ufeffsentence\tlabel\r\n"so bad\t0\r\n\r\nit \'s "fine"\t1')
    read = list(TableExamples(train=path).load("train"))
    assert read == [
        {"id": "a-2", "text": '"so bad', "label": "0"},
        {"id": "a-4", "text": 'it \'s "fine"', "label": "1"},
    ]


def test_csv_is_quoted(tmp_path):
    content = 'label,text\n1,"two\nlines, ""quoted"""\n\n0,plain "inside"\n'
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(content.encode()))
    read = list(TableExamples(train=str(path)).load("train"))
    assert read == [
        {"id": "a-2", "text": 'two\nlines, "quoted"', "label": "1"},
        {"id": "a-5", "text": 'plain "inside"', "label": "0"},
    ]


@pytest.mark.parametrize(
    "fields, header, row, example",
    [
        ({}, "Quality\t#1 String\t#2 String", "1\ta\tb", {"text": "a", "pair": "b", "label": "1"}),
        ({}, "index\tquestion\tsentence\tlabel", "7\ta\tb\tyes", {"id": "7", "text": "a", "pair": "b", "label": "yes"}),
        ({"id": ""}, "id\ttext\tlabel", "7\ta\tyes", {"id": "t-2", "text": "a", "label": "yes"}),
        ({"number": True}, "sentence1\tsentence2\tscore", "a\tb\t2.50", {"text": "a", "pair": "b", "label": 2.5}),
        ({"text": "x", "label": "y"}, "x\ty\tlabel", "a\tb\tc", {"text": "a", "label": "b"}),
        ({}, "sentence_good\tsentence_bad\tUID", "a\tb\tc", {"good": "a", "bad": "b", "group": "c"}),
        ({"good": "x", "bad": "y"}, "x\ty\tz", "a\tb\tc", {"good": "a", "bad": "b", "group": "t"}),
        ({}, "premise\tchoice1\tchoice2\tquestion\tlabel", "p\ta\tb\tcause\t1",
         {"text": "p cause", "choices": ["a", "b"], "label": 1}),
        ({"text": "s", "choices": ("x", "y"), "label": "r", "first_choice": 1}, "s\tx\ty\tr", "p\ta\tb\t2",
         {"text": "p", "choices": ["a", "b"], "label": 1}),
        ({"text": "s", "choices": ("x", "y"), "label": "r"}, "s\tx\ty\tr", "p\tu\tv\tB",
         {"text": "p", "choices": ["u", "v"], "label": 1}),
        ({"text": "s", "choices": ("x", "y"), "label": "r"}, "s\tx\ty\tr", "p\tb\ta\ta",
         {"text": "p", "choices": ["b", "a"], "label": 1}),
    ],
)  # fmt: skip
def test_columns_are_given_or_guessed(tmp_path, fields, header, row, example):
    path = write(tmp_path / "t.tsv", f"{header}\n{row}\n")
    assert list(TableExamples(train=path, **fields).load("train")) == [{"id": "t-2"} | example]


def test_a_table_without_a_line_of_names(tmp_path):
    path = write(tmp_path / "a.txt", "gj04;1;;They sleep.\n")
    table = TableExamples(train=path, delimiter=";", columns=("source", "label", "mark", "sentence"))
    assert list(table.load("train")) == [{"id": "a-1", "text": "They sleep.", "label": "1"}]


def test_hidden_labels(tmp_path):
    train = write(tmp_path / "train.tsv", "sentence\tlabel\na\t1\nb\t0\n")
    for name, content in (("none", "sentence\nx\ny\n"), ("minus", "sentence\tlabel\nx\t-1\ny\t-1\n")):
        test = write(tmp_path / f"{name}.tsv", content)
        assert [{**x, "id": ""} for x in TableExamples(train=train, test=test).read("test")] == [
            {"id": "", "text": "x"},
            {"id": "", "text": "y"},
        ]
    real = write(tmp_path / "real.tsv", "sentence\tlabel\nx\t-1\ny\t1\n")
    assert [x["label"] for x in TableExamples(test=real).read("test")] == ["-1", "1"]


@pytest.mark.parametrize(
    "content, fields, place, said",
    [
        ("a\tb\nx\ty\n", {}, ":2", "no column has a name that says it is the text; the columns are a, b"),
        ("text\tsentence\tlabel\nx\ty\tz\n", {}, ":2", "sentence, text could each be the text"),
        ("text\tkind\nx\ty\n", {}, ":2", "no column of labels; the columns are kind, text"),
        ("text\tlabel\nx\ty\n", {"label": "labl"}, ":2", "no column of labels; the columns are label, text"),
        ("text\tlabel\nx\ty\n", {"text": "sentence"}, ":2", "no column 'sentence'; there are label, text"),
        ("text\tlabel\nx\ty\nx\n", {}, ":3", "1 cells, and 2 columns (text, label)"),
        ("text\tlabel\nx\ty\nx\ty\tz\n", {}, ":3", "3 cells, and 2 columns"),
        ("text\tlabel\n \ty\n", {}, ":2", "column 'text' is empty"),
        ("text\tlabel\nx\t\n", {}, ":2", "no label in column 'label'"),
        ("text\ttext\nx\ty\n", {}, ":1", "two columns have one name"),
        ("text\tlabel\n", {}, "", "holds no examples"),
        ("", {}, "", "holds no examples"),
        (b"text\tlabel\nx\ty\ncaf\xe9\tz\n", {}, ":3", "not UTF-8 (byte 0xe9)"),
        ("text\tlabel\nx\ty\n".encode("utf-16"), {}, ":1", "iconv -f utf-16"),
        ("text\tlabel\nx\tnan\n", {"number": True}, ":2", "the label 'nan' is not finite"),
        ("text\tlabel\nx\tgood\n", {"number": True}, ":2", "the label 'good' is no number"),
        ("id\ttext\tlabel\n1\tx\ty\n2\tx\ty\n1\tz\ty\n", {}, ":4", "the id '1' is that of"),
        ("id\ttext\tlabel\n\tx\ty\n", {}, ":2", "the id in column 'id'"),
        ("q\ta\tb\tlabel\nx\ty\tz\t2\n", {"text": "q", "choices": ("a", "b")}, ":2", "none of the 2 choices"),
        ('text,label\n"open,1\nx,2\n', {"delimiter": ","}, ":2", "not quoted as RFC 4180 says: unexpected end of data"),
        ('text,label\nx,2\n"a"b,1\n', {"delimiter": ","}, ":3", "not quoted as RFC 4180 says"),
    ],
)  # fmt: skip
def test_bad_tables(tmp_path, content, fields, place, said):
    path = write(tmp_path / "a.tsv", content)
    message = error_of(TableExamples(train=path, **fields))
    assert message.startswith(path + place) and said in message and "\n" not in message


def test_no_such_file(tmp_path):
    assert "no file matches examples.train='nowhere/*.tsv'" in error_of(TableExamples(train="nowhere/*.tsv"))
    path = write(tmp_path / "a.tsv.gz", gzip.compress(b"text\tlabel\n" + os.urandom(4000).hex().encode())[:-2000])
    assert f"{path} is damaged" in error_of(TableExamples(train=path))


@pytest.mark.parametrize(
    "fields, said",
    [
        ({}, "has no file"),
        ({"train": "a", "good": "x"}, "both columns"),
        ({"train": "a", "pair": "x"}, "go with examples.text"),
        ({"train": "a", "text": "x", "answers": "y"}, "examples.pair (the context)"),
        ({"train": "a", "text": "x", "words": "y"}, "of one kind"),
        ({"train": "a", "delimiter": "::"}, "one character"),
        ({"train": "a", "first_choice": 2}, "0 or 1"),
    ],
)
def test_fields_that_do_not_fit(fields, said):
    with pytest.raises(ValueError) as error:
        TableExamples(**fields)
    assert said in str(error.value)


def test_on_the_command_line():
    table = override(TableExamples(train="a.csv"), ["text=t", "choices=a,b", "number=True", "quoted=False"])
    assert table == TableExamples(train="a.csv", text="t", choices=("a", "b"), number=True, quoted=False)
    assert from_json(to_json(table)) == table


def test_what_is_held_out_shares_no_text_and_no_context(tmp_path):
    rows = [{"text": f"t{i % 150}", "label": i % 3} for i in range(300)]
    examples = JsonExamples(train=write_rows(tmp_path / "a.jsonl", rows), held_out=0.3)
    train, held_out = ({x["text"] for x in examples.read(split)} for split in ("train", "validation"))
    assert len(train | held_out) == 150 and not train & held_out and 25 < len(held_out) < 65
    paragraphs = [paragraph(f"context {i}", f"q{i}-", 0) for i in range(40)]
    squad = SquadExamples(train=write(tmp_path / "a.json", squad_json(*paragraphs)), held_out=0.3)
    train, held_out = ({x["context"] for x in squad.read(split)} for split in ("train", "validation"))
    assert len(train | held_out) == 40 and not train & held_out and len(held_out) > 3


# Lines of JSON.


def test_one_glob_is_many_files(tmp_path):
    for name in ("one", "two"):
        rows = [{"sentence_good": f"{name} {i}", "sentence_bad": f"{i} {name}", "pairID": i} for i in range(2)]
        write_rows(tmp_path / f"{name}.jsonl", rows)
    read = JsonExamples(test=str(tmp_path / "*.jsonl")).read("test")
    assert [x["id"] for x in read] == ["one-1", "one-2", "two-1", "two-2"]
    assert read[3] == {"id": "two-2", "good": "two 1", "bad": "1 two", "group": "two"}
    for name in ("one", "two"):
        write_rows(tmp_path / f"{name}.jsonl", [{"id": 7, "text": name, "label": 1}])
    assert [x["id"] for x in JsonExamples(test=str(tmp_path / "*.jsonl")).read("test")] == ["one-7", "two-7"]


@pytest.mark.parametrize(
    "row, example",
    [
        ({"text": "a", "label": 3}, {"text": "a", "label": "3"}),
        ({"question": "a", "passage": "b", "label": True}, {"text": "a", "pair": "b", "label": "true"}),
        ({"idx": {"passage": 1, "answer": 2}, "text": "a", "label": "x"}, {"id": "1-2", "text": "a", "label": "x"}),
        ({"tokens": ["a", "b"], "ner_tags": ["O", "B-X"]}, {"words": ["a", "b"], "labels": ["O", "B-X"]}),
        ({"ctx": "a", "endings": ["b", "c", "d"], "label": "2"},
         {"text": "a", "choices": ["b", "c", "d"], "label": 2}),
        ({"question": "q", "context": "a bc", "answers": {"text": ["bc"], "answer_start": [2]}},
         {"question": "q", "context": "a bc", "answers": [{"text": "bc", "start": 2}]}),
    ],
)  # fmt: skip
def test_json_rows(tmp_path, row, example):
    path = write_rows(tmp_path / "t.jsonl", [row])
    assert list(JsonExamples(train=path).load("train")) == [{"id": "t-1"} | example]


def test_questions_of_test_may_hide_their_answers(tmp_path):
    path = write_rows(tmp_path / "t.jsonl", [{"question": "q", "context": "a bc"}])
    assert JsonExamples(test=path).read("test") == [{"id": "t-1", "question": "q", "context": "a bc"}]
    assert "could each be the text" in error_of(JsonExamples(train=path))


def test_rows_without_a_label(tmp_path):
    path = write_rows(tmp_path / "t.jsonl", [{"text": "a", "label": 1}, {"text": "b", "label": None}])
    assert [x.get("label") for x in JsonExamples(test=path).load("test")] == ["1", None]
    message = error_of(JsonExamples(train=path))
    assert message.startswith(f"{path}:2: no label in column 'label'") and "drop_unlabelled" in message
    assert [x["text"] for x in JsonExamples(train=path, drop_unlabelled=True).load("train")] == ["a"]


@pytest.mark.parametrize(
    "line, said",
    [
        ('{"text": "x", "lab', "not a JSON object, or cut off"),
        ('{"text": "x", "label": NaN}', "NaN is no number"),
        ('["x", 1]', "this is a list"),
        ("[" * 100_000, "not a JSON object"),
        ('{"text": 3, "label": 1}', "column 'text' holds int, not text"),
        ('{"text": "\\ud83d", "label": 1}', "surrogate"),
        ('{"text": "a", "label": "\\ud83d"}', "surrogate"),
        ('{"id": "\\ud83d", "text": "a", "label": 1}', "surrogate"),
        ('{"text": "x", "label": [1]}', "a label is text or a number, not [1]"),
        ('{"text": "x", "label": 1.5}', "with examples.number=True labels are numbers"),
        ('{"label": 1}', "no column 'text'; there are label"),
        ('{"text": "x"}', "no column of labels"),
    ],
)
def test_bad_json(tmp_path, line, said):
    path = write(tmp_path / "a.jsonl", '{"text": "x", "label": 1}\n\n' + line)
    message = error_of(JsonExamples(train=path))
    assert message.startswith(f"{path}:3: ") and said in message


@pytest.mark.parametrize(
    "row, said",
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "a list of 2 labels"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "a word in 'tokens' is empty"),
        ({"tokens": "a b", "tags": ["O", "O"]}, "wants a list of words"),
        ({"ctx": "a", "endings": ["b"], "label": 0}, "at least two choices"),
        ({"question": "q", "context": "a bc", "answers": {"text": ["bc"], "answer_start": [1]}}, "it stands at 2"),
        ({"question": "q", "context": "a bc", "answers": {"text": ["bc"], "answer_start": []}}, "of one length"),
    ],
)
def test_bad_json_of_other_kinds(tmp_path, row, said):
    path = write_rows(tmp_path / "a.jsonl", [row])
    message = error_of(JsonExamples(train=path))
    assert message.startswith(f"{path}:1: ") and said in message


# CoNLL.


def test_conll(tmp_path):
    content = "-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\r\nrejects VBZ B-VP O\r\n \r\n\r\n\nPeter NNP B-NP B-PER"
    path = write(tmp_path / "a.conll", content)
    assert list(ConllExamples(train=path).load("train")) == [
        {"id": "a-3", "words": ["EU", "rejects"], "labels": ["B-ORG", "O"]},
        {"id": "a-8", "words": ["Peter"], "labels": ["B-PER"]},
    ]
    assert next(iter(ConllExamples(train=path, label=1).load("train")))["labels"] == ["NNP", "VBZ"]
    tabs = write(tmp_path / "b.conll", "New York\tB-LOC\n\u2009x\tO\n")
    assert next(iter(ConllExamples(train=tabs).load("train")))["words"] == ["New York", "\u2009x"]
    hidden = write(tmp_path / "c.conll", "a\nb\n\nc\n")
    assert ConllExamples(test=hidden).read("test") == [
        {"id": "c-1", "words": ["a", "b"]},
        {"id": "c-4", "words": ["c"]},
    ]


@pytest.mark.parametrize(
    "content, fields, place, said",
    [
        ("a O\nb X O\n", {}, ":2", "3 columns, the lines before have 2"),
        ("a O\n\nb\n", {}, ":3", "1 columns, the lines before have 2"),
        ("a\nb\n", {}, ":1", "column 0 is the word's, and the label's"),
        ("a\tO\n\tO\n", {}, ":2", "the word is empty"),
        ("a\tO\nb\t\n", {}, ":2", "the label is empty"),
        ("a O\n", {"label": 2}, ":1", "no column 2 (examples.label): there are 2"),
        ("\n\n", {}, "", "holds no examples"),
    ],
)
def test_bad_conll(tmp_path, content, fields, place, said):
    path = write(tmp_path / "a.conll", content)
    message = error_of(ConllExamples(train=path, **fields))
    assert message.startswith(path + place) and said in message


def conllu(*rows):
    return "".join("\t".join([*row, *["_"] * (10 - len(row))]) + "\n" for row in rows)


def test_conllu(tmp_path):
    rows = [("1-2", "don't"), ("1", "do", "do", "AUX", "VBP"), ("2", "n't", "not", "PART", "RB"), ("2.1", "go")]
    content = f"# sent_id = s/1\n# text = don't\n{conllu(*rows)}\n{conllu(('1', '#', '#', 'SYM', 'NN'))}"
    path = write(tmp_path / "a.conllu", content)
    assert list(ConlluExamples(train=path).load("train")) == [
        {"id": "s/1", "words": ["do", "n't"], "labels": ["AUX", "PART"]},
        {"id": "a-8", "words": ["#"], "labels": ["SYM"]},
    ]
    assert [x["labels"] for x in ConlluExamples(train=path, label="xpos").load("train")] == [["VBP", "RB"], ["NN"]]
    assert [x["labels"] for x in ConlluExamples(train=path, label="feats").load("train")] == [["_", "_"], ["_"]]
    assert all("labels" not in x for x in ConlluExamples(test=path, label="deprel").load("test"))
    assert f"{path}:1: its word 1 has no deprel" in error_of(ConlluExamples(train=path, label="deprel"))


@pytest.mark.parametrize(
    "content, place, said",
    [
        ("1\ta\tb\tNOUN\n", ":1", "4 columns; CoNLL-U has 10"),
        (conllu(("1", "a", "a", "X"), ("3", "b", "b", "X")), ":2", "the word's number is '3', not 2"),
        ("# sent_id = x\n" + conllu(("1", "a", "a", "X")) + "\n# sent_id = x\n" + conllu(("1", "a", "a", "X")), ":4", 
         "the id 'x' is that of"),
    ],
)  # fmt: skip
def test_bad_conllu(tmp_path, content, place, said):
    path = write(tmp_path / "a.conllu", content)
    message = error_of(ConlluExamples(train=path))
    assert message.startswith(path + place) and said in message


# SQuAD.


def paragraph(context, name, start, text=None, **more):
    answer = {"text": context[start:] if text is None else text, "answer_start": start}
    return {"context": context, "qas": [{"id": name, "question": "what?", "answers": [answer]} | more]}


def squad_json(*paragraphs):
    return json.dumps({"version": "2.0", "data": [{"title": "t", "paragraphs": list(paragraphs)}]})


def test_squad(tmp_path):
    impossible = paragraph("None here.", "c", 0, answers=[], is_impossible=True, plausible_answers=[{}])
    path = write(tmp_path / "a.json", squad_json(paragraph("\U0001f600 caf\u00e9 x", "a", 2, "caf\u00e9"), impossible))
    assert list(SquadExamples(train=path).load("train")) == [
        {
            "id": "a",
            "question": "what?",
            "context": "\U0001f600 caf\u00e9 x",
            "answers": [{"text": "caf\u00e9", "start": 2}],
        },
        {"id": "c", "question": "what?", "context": "None here.", "answers": []},
    ]
    hidden = json.loads(Path(path).read_text())
    for held in hidden["data"][0]["paragraphs"]:
        for question in held["qas"]:
            question.pop("answers")
            question.pop("is_impossible", None)
    path = write(tmp_path / "b.json", json.dumps(hidden))
    assert [set(x) for x in SquadExamples(test=path).load("test")] == [{"id", "question", "context"}] * 2
    assert "(id a): no answers; only those of test may be hidden" in error_of(SquadExamples(train=path))


@pytest.mark.parametrize(
    "content, said",
    [
        (squad_json(paragraph("a b a b", "x7", 3, "b")), "(id x7): the answer 'b' does not stand at 3 of its context"),
        (squad_json(paragraph("a bc", "x7", 0, "bc")), "it stands at 2"),
        (squad_json(paragraph("a bc", "x7", -1, "c")), "it stands at 3"),
        (squad_json(paragraph("a bc", "x7", 0, "d")), "it stands nowhere in it"),
        (squad_json(paragraph("a", "x7", 0, "")), "an answer has a 'text' and an integer 'answer_start'"),
        (squad_json(paragraph("a", "x7", 0, answers=[], is_impossible=False)), "though is_impossible is false"),
        (squad_json(paragraph("a", "x7", 0, is_impossible=True)), "it is_impossible, and has answers"),
        (squad_json(paragraph("a", "x7", 0, question=" ")), "(id x7): the question is empty"),
        (squad_json(paragraph("a", "x7", 0), paragraph("b", "x7", 0)), "the id 'x7' is that of"),
        (squad_json({"context": "a"}), "data[0].paragraphs[0]: no SQuAD JSON: an object with 'qas', a list"),
        ("[1]", "no SQuAD JSON: an object with 'data'"),
        ('{"data": []}', "holds no examples"),
        (squad_json(paragraph("a", "x7", 0))[:-30], ":1: not JSON, or cut off"),
        (b'{"data": \n"caf\xe9"}', ":2: not UTF-8"),
    ],
)
def test_bad_squad(tmp_path, content, said):
    path = write(tmp_path / "a.json", content)
    message = error_of(SquadExamples(train=path))
    assert message.startswith(path) and said in message


def test_answers_that_are_only_scored_need_not_stand_where_they_say(tmp_path):
    path = write(tmp_path / "a.json", squad_json(paragraph("a b", "x", 0, "b")))
    assert SquadExamples(validation=path).read("validation")[0]["answers"] == [{"text": "b", "start": 0}]


# Any of them.

WHOLE = {
    "a.tsv": (TableExamples, b'id\tsentence1\tsentence2\tlabel\n1\ta b\tc\t0\n2\t"d\te\t1\n'),
    "a.csv": (TableExamples, b'text,label\n"a, ""b""\nc",1\r\nx,2\n'),
    "choices.jsonl": (JsonExamples, b'{"question": "a", "choices": ["b", "c"], "label": 1}\n' * 2),
    "words.jsonl": (JsonExamples, b'{"tokens": ["a", "b"], "tags": [0, "B"]}\n' * 2),
    "a.conll": (ConllExamples, b"-DOCSTART- O\n\na X O\nb Y B\n\nc Z O\n"),
    "a.conllu": (ConlluExamples, b"# sent_id = 3\n" + conllu(("1-2", "ab"), ("1", "a", "a", "X")).encode()),
    "a.json": (SquadExamples, squad_json(paragraph("a b", "x", 2, is_impossible=False)).encode()),
}
DAMAGE = [b"\t", b"\n", b"\r", b'"', b",", b"\xff", b"\x00", b"{", b"]", b"null", b"NaN", b"true", b"-1", b"1e999"]
DAMAGE += [b"\\ud800", b"{}", b'""', b"[1]", b"9" * 5000, b"\xc2\xa0", b""]


@pytest.mark.parametrize("name", WHOLE)
def test_damage_is_a_mistake_of_the_file_or_leaves_whole_examples(tmp_path, name):
    kind, content = WHOLE[name]
    source, mistakes = random.Random(name), 0
    for split in ("train", "test") * 100:
        start = source.randrange(len(content))
        damaged = content[:start] + source.choice(DAMAGE) + content[start + source.choice((0, 1, 2, 8)) :]
        path = write(tmp_path / name, damaged)
        try:
            for example in kind(**{split: path}).load(split):
                assert json.dumps(example, allow_nan=False) and isinstance(example["id"], str) and example["id"]
                assert len(example.get("labels", example.get("words", ()))) == len(example.get("words", ()))
                assert "choices" not in example or example.get("label", 0) in (0, 1)
        except UserError as error:
            assert path in str(error) and len(str(error)) < 1000
            mistakes += 1
    assert 60 < mistakes < 200


# TFDS.


def write_tfds(folder, name, features, splits, version="1.0.0"):
    """A data set of TFDS in `folder`, as `tfds build` leaves it."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    version = folder / name / version
    version.mkdir(parents=True)
    dataset = name.partition("/")[0]
    features = tfds.features.FeaturesDict(features)
    template = tfds.core.ShardedFileTemplate(data_dir=version, dataset_name=dataset, filetype_suffix="array_record")
    infos = []
    for split, records in splits.items():
        writer = ArrayRecordWriter(str(version / f"{dataset}-{split}.array_record-00000-of-00001"), "group_size:1")
        for record in records:
            writer.write(features.serialize_example(record))
        writer.close()
        infos.append(
            tfds.core.SplitInfo(name=split, shard_lengths=[len(records)], num_bytes=1, filename_template=template)
        )
    tfds.folder_dataset.write_metadata(
        data_dir=version, features=features, split_infos=infos, filename_template=template, check_data=False
    )


def test_tfds_texts(tmp_path):
    import tensorflow_datasets as tfds

    label = tfds.features.ClassLabel(names=["negative", "positive"])
    features = {"sentence": tfds.features.Text(), "label": label, "idx": np.int32}
    train = [{"sentence": "gut", "label": 1, "idx": 5}, {"sentence": "d\u00e9ux", "label": 0, "idx": 6}]
    test = [{"sentence": "x", "label": -1, "idx": 0}]
    write_tfds(tmp_path, "glue/sst2", features, {"train": train, "validation": train[:1], "test": test})
    examples = TfdsExamples(name="glue/sst2", data_dir=str(tmp_path))
    assert examples.available == ("train", "validation", "test")
    assert examples.read("train") == [
        {"id": "5", "text": "gut", "label": "positive"},
        {"id": "6", "text": "d\u00e9ux", "label": "negative"},
    ]
    assert examples.read("test") == [{"id": "0", "text": "x"}]
    assert "tensorflow" not in sys.modules
    sliced = TfdsExamples(name="glue/sst2", data_dir=str(tmp_path), train="train[1:]")
    assert [x["id"] for x in sliced.read("train")] == ["6"]
    wrong = TfdsExamples(name="glue/sst2", data_dir=str(tmp_path), test="tset")
    assert "examples.test='tset'" in error_of(wrong, "test")
    wrong = TfdsExamples(name="glue/sst2", data_dir=str(tmp_path), text="body", label="label")
    assert "glue/sst2[train] record 0: no column 'body'; there are idx, label, sentence" in error_of(wrong)
    absent = TfdsExamples(name="no_such_set", data_dir=str(tmp_path))
    with pytest.raises(UserError, match="download_and_prepare"):
        absent.read("train")


def test_tfds_pairs_whose_splits_are_named(tmp_path):
    import tensorflow_datasets as tfds

    label = tfds.features.ClassLabel(names=["entailment", "neutral", "contradiction"])
    features = {"premise": tfds.features.Text(), "hypothesis": tfds.features.Text(), "label": label}
    records = [{"premise": "p", "hypothesis": "h", "label": k} for k in (2, -1, 0)]
    splits = {"train": records, "validation_matched": records[:1], "validation_mismatched": records[2:]}
    write_tfds(tmp_path, "glue/mnli", features, splits)
    with pytest.raises(UserError, match="validation_matched, validation_mismatched: examples.validation is one"):
        TfdsExamples(name="glue/mnli", data_dir=str(tmp_path)).read("train")
    fields = {"name": "glue/mnli", "data_dir": str(tmp_path), "validation": "validation_matched"}
    assert TfdsExamples(**fields).read("validation") == [
        {"id": "validation-0", "text": "p", "pair": "h", "label": "contradiction"}
    ]
    assert "glue/mnli[train] record 1: no label" in error_of(TfdsExamples(**fields))
    read = TfdsExamples(drop_unlabelled=True, **fields).read("train")
    assert [(x["id"], x["label"]) for x in read] == [("train-0", "contradiction"), ("train-2", "entailment")]


def test_tfds_questions_words_and_numbers(tmp_path):
    import tensorflow_datasets as tfds

    text = tfds.features.Text()
    answers = tfds.features.Sequence({"text": text, "answer_start": np.int32})
    records = [
        {"id": "q1", "question": "was?", "context": "ein Hund", "answers": {"text": ["Hund"], "answer_start": [4]}},
        {"id": "q2", "question": "wo?", "context": "ein Hund", "answers": {"text": [], "answer_start": []}},
    ]
    features = {"id": text, "question": text, "context": text, "answers": answers}
    write_tfds(tmp_path, "squad/v1.1", features, {"train": records}, version="3.0.0")
    read = list(TfdsExamples(name="squad", data_dir=str(tmp_path)).load("train"))
    assert read[0] == {
        "id": "q1",
        "question": "was?",
        "context": "ein Hund",
        "answers": [{"text": "Hund", "start": 4}],
    }
    assert read[1]["answers"] == []

    tags = tfds.features.Sequence(tfds.features.ClassLabel(names=["O", "B-PER"]))
    features = {"tokens": tfds.features.Sequence(text), "tags": tags}
    write_tfds(tmp_path, "wiki", features, {"test": [{"tokens": ["Ada", "ging"], "tags": [1, 0]}]})
    assert TfdsExamples(name="wiki", data_dir=str(tmp_path)).read("test") == [
        {"id": "test-0", "words": ["Ada", "ging"], "labels": ["B-PER", "O"]}
    ]

    pair = {"sentence1": text, "sentence2": text, "label": np.float32}
    records = [{"sentence1": "a", "sentence2": "b", "label": x} for x in (2.5, -1.0)]
    write_tfds(tmp_path, "stsb", pair, {"train": records[:1], "test": records[1:]})
    numbers = TfdsExamples(name="stsb", data_dir=str(tmp_path), number=True)
    assert [x["label"] for x in numbers.load("train")] == [2.5] and "label" not in numbers.read("test")[0]


# Data as published.


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data sets in {DATA} (PTJAX_SHARED_DATA)")
def test_published_data():
    def counts(kind, folder, **files):
        examples = kind(**{split: str(DATA / folder / name) for split, name in files.items()})
        return {split: sum(1 for _ in examples.load(split)) for split in files}

    found = counts(TableExamples, "sst2", train="train.tsv", validation="dev.tsv", test="test.tsv")
    assert found == {"train": 6920, "validation": 872, "test": 1821}
    assert counts(TableExamples, "trec", train="train.tsv", test="test.tsv") == {"train": 5452, "test": 500}
    assert counts(JsonExamples, "rte", train="train.jsonl", test="test.jsonl") == {"train": 3367, "test": 800}
    found = counts(ConllExamples, "wikiann-en", train="train.conll", validation="dev.conll", test="test.conll")
    assert found == {"train": 12000, "validation": 3000, "test": 3000}
    found = counts(ConllExamples, "conll2000-chunking", train="train.conll", test="test.conll")
    assert found == {"train": 8936, "test": 2012}
    assert counts(ConlluExamples, "ud-ewt", validation="dev.conllu", test="test.conllu") == {
        "validation": 2001,
        "test": 2077,
    }
    assert counts(SquadExamples, "xquad", train="train.json", validation="dev.json") == {
        "train": 970,
        "validation": 220,
    }
    pairs = JsonExamples(test=str(DATA / "blimp/*.jsonl")).read("test")
    assert len(pairs) == 10_200 and len({x["group"] for x in pairs}) == 34


def test_the_page_shows_what_there_is():
    page = (Path(__file__).parents[2] / "docs/tasks.md").read_text()
    section = page.partition("\n## Data of your own\n")[2].partition("\n## ")[0]
    lines = [line for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL) for line in block.splitlines()]
    built = {type(eval(line)).__name__ for line in lines}
    names = {"TableExamples", "JsonExamples", "ConllExamples", "ConlluExamples", "SquadExamples", "TfdsExamples"}
    assert built == names and names <= set(ptjax.data.examples.__all__)
