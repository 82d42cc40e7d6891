from ptjax.models.bert import BERT
from ptjax.models.gpt import GPT
from ptjax.models.llama import Llama
from ptjax.models.t5 import T5
from ptjax.models.transformer_xl import TransformerXL
from ptjax.models.xlnet import XLNet

__all__ = ["BERT", "GPT", "Llama", "T5", "TransformerXL", "XLNet"]
