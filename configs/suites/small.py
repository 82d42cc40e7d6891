"""Eight tasks small enough for a model of a few minutes: a cell is 10 to 20 seconds on one core.

The four of the standard library (see stdlib.py), and of English those that have been learned by a model that has read a
million tokens of books: sentiment, question types, chunks, and the minimal pairs of BLiMP on agreement. `data` is a
folder with one for each:

    sst2/{train,dev}.tsv   trec/{train,test}.tsv   conll2000-chunking/{train,test}.conll   blimp/*agreement*.jsonl

Every body reads both ways when it is fine-tuned, causal ones too (attention), so that what pre-training has made is
compared and not which way it looks; minimal pairs are judged by each model's own likelihood, which is exact for causal
models and a pseudo-likelihood for masked ones.

Few examples, one learning rate, one validation: for comparing models of one size with each other, and nothing else.
SST-2's dev file is the test, as is usual where test labels are hidden; where there is no other, validation examples are
held out of the training file by a hash. `pairs=false` leaves out minimal pairs, which a model without a likelihood, as
RTD's, cannot judge."""

from ptjax.data.examples import ConllExamples, JsonExamples, TableExamples
from ptjax.data.examples.stdlib import PackageExamples, ReturnExamples, SwapExamples, TokenKindExamples
from ptjax.finetune import Recipe
from ptjax.leaderboard import Suite
from ptjax.optim import AdamW, Linear
from ptjax.tasks import MinimalPairs, QuestionAnswering, SequenceClassification, TokenClassification


def get_config(data: str, pairs: bool = True) -> Suite:
    code = dict(train=400, validation=150, test=400)
    sst2 = TableExamples(train=f"{data}/sst2/train.tsv", test=f"{data}/sst2/dev.tsv", held_out=0.04)
    trec = TableExamples(train=f"{data}/trec/train.tsv", test=f"{data}/trec/test.tsv", held_out=0.05)
    chunks = f"{data}/conll2000-chunking"
    chunks = ConllExamples(train=f"{chunks}/train.conll", test=f"{chunks}/test.conll", held_out=0.03)
    both_ways = dict(attention="bidirectional")
    learned = (
        SequenceClassification(
            name="packages", examples=PackageExamples(**code | dict(train=800)), length=64, epochs=4.0, **both_ways
        ),
        TokenClassification(
            name="tokens", examples=TokenKindExamples(**code), metric="accuracy", length=64, stride=16, **both_ways
        ),
        QuestionAnswering(
            name="answers",
            examples=ReturnExamples(**code),
            length=64,
            stride=16,
            max_question=16,
            epochs=2.0,
            **both_ways,
        ),
        SequenceClassification(name="sst2", examples=sst2, length=64, limit=1000, **both_ways),
        SequenceClassification(name="trec", examples=trec, length=32, limit=1000, **both_ways),
        TokenClassification(name="conll2000", examples=chunks, length=64, stride=8, limit=500, **both_ways),
    )
    judged = (
        MinimalPairs(name="swaps", examples=SwapExamples(validation=0, test=200), too_long="tie"),
        MinimalPairs(name="blimp", examples=JsonExamples(test=f"{data}/blimp/*agreement*.jsonl"), too_long="tie"),
    )
    return Suite(
        name="small",
        tasks=learned + judged if pairs else learned,
        recipe=Recipe(
            learning_rates=(3e-3,),
            epochs=3.0,
            evaluations=1,
            optimizer=AdamW(schedule=Linear(warmup=0.1), weight_decay=0.01),
        ),
    )
