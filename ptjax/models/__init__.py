from ptjax.models.bert import BERT
from ptjax.models.gpt import GPT
from ptjax.models.t5 import T5

__all__ = ["BERT", "GPT", "T5"]
