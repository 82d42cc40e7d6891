"""Six tasks of English in the formats people keep them: sentiment, question types, entailment, entities, chunks, and
answers in a text. `data` is a folder with one for each:

    sst2/{train,dev,test}.tsv   trec/{train,test}.tsv   rte/{train,test}.jsonl   wikiann-en/{train,dev,test}.conll
    conll2000-chunking/{train,test}.conll   xquad/{train,dev}.json

Where there is no dev file, a tenth of the training examples, by a hash, is held out; XQuAD's dev file is the test."""

from ptjax.data.examples import ConllExamples, JsonExamples, SquadExamples, TableExamples
from ptjax.finetune import Recipe
from ptjax.leaderboard import Suite
from ptjax.tasks import QuestionAnswering, SequenceClassification, TokenClassification


def get_config(data: str, seeds: int = 1) -> Suite:
    def files(ending: str, **splits: str) -> dict[str, str]:
        return {split: f"{data}/{path}.{ending}" for split, path in splits.items()}

    sst2 = files("tsv", train="sst2/train", validation="sst2/dev", test="sst2/test")
    trec = files("tsv", train="trec/train", test="trec/test")
    rte = files("jsonl", train="rte/train", test="rte/test")
    ner = files("conll", train="wikiann-en/train", validation="wikiann-en/dev", test="wikiann-en/test")
    chunks = files("conll", train="conll2000-chunking/train", test="conll2000-chunking/test")
    squad = files("json", train="xquad/train", test="xquad/dev")
    return Suite(
        name="english",
        tasks=(
            SequenceClassification(name="sst2", examples=TableExamples(**sst2), length=64, epochs=2.0),
            SequenceClassification(name="trec", examples=TableExamples(**trec), length=64, epochs=4.0),
            SequenceClassification(name="rte", examples=JsonExamples(**rte), length=128),
            TokenClassification(name="wikiann", examples=ConllExamples(**ner), length=128, limit=6000),
            TokenClassification(name="conll2000", examples=ConllExamples(**chunks), length=128, epochs=2.0),
            QuestionAnswering(name="xquad", examples=SquadExamples(**squad), length=256, stride=64, epochs=4.0),
        ),
        recipe=Recipe(learning_rates=(1e-4,), seeds=tuple(range(seeds)), epochs=3.0, evaluations=2),
    )
