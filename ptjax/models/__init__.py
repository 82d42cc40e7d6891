from ptjax.models.albert import ALBERT
from ptjax.models.bert import BERT
from ptjax.models.deberta import DeBERTa
from ptjax.models.electra import ELECTRA
from ptjax.models.gpt import GPT
from ptjax.models.llama import Llama
from ptjax.models.modernbert import ModernBERT
from ptjax.models.roberta import RoBERTa
from ptjax.models.t5 import T5
from ptjax.models.transformer_xl import TransformerXL
from ptjax.models.xlnet import XLNet

__all__ = [
    "ALBERT",
    "BERT",
    "DeBERTa",
    "ELECTRA",
    "GPT",
    "Llama",
    "ModernBERT",
    "RoBERTa",
    "T5",
    "TransformerXL",
    "XLNet",
]
