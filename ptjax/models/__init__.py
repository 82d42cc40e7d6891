from ptjax.models.bert import BERT
from ptjax.models.gpt import GPT

__all__ = ["BERT", "GPT"]
