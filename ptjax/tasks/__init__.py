"""Tasks: objectives with labelled examples, for fine-tuning and for scores."""

from ptjax.tasks.base import Answer, Task
from ptjax.tasks.choice import MultipleChoice
from ptjax.tasks.encoded import Encoded
from ptjax.tasks.minimal_pairs import MinimalPairs
from ptjax.tasks.question import QuestionAnswering
from ptjax.tasks.sequence import SequenceClassification, SequenceRegression
from ptjax.tasks.token import TokenClassification
from ptjax.tasks.tuning import Full, LoRA, Probe, Tuning

__all__ = [
    "Answer",
    "Encoded",
    "Full",
    "LoRA",
    "MinimalPairs",
    "MultipleChoice",
    "Probe",
    "QuestionAnswering",
    "SequenceClassification",
    "SequenceRegression",
    "Task",
    "TokenClassification",
    "Tuning",
]
