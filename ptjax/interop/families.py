"""All families of published models that ptjax reads and writes."""

from ptjax.interop.albert import AlbertFamily
from ptjax.interop.bert import BertFamily
from ptjax.interop.deberta import DebertaV2Family
from ptjax.interop.electra import ElectraFamily
from ptjax.interop.family import Family
from ptjax.interop.gpt2 import GPT2Family
from ptjax.interop.llama import LlamaFamily, MistralFamily, Qwen2Family, Qwen3Family
from ptjax.interop.mixtral import MixtralFamily, Qwen3MoeFamily
from ptjax.interop.modernbert import ModernBertFamily
from ptjax.interop.roberta import RobertaFamily
from ptjax.interop.t5 import T5Family
from ptjax.interop.xlnet import XLNetFamily

FAMILIES: tuple[Family, ...] = (
    AlbertFamily(),
    BertFamily(),
    DebertaV2Family(),
    ElectraFamily(),
    GPT2Family(),
    LlamaFamily(),
    MistralFamily(),
    MixtralFamily(),
    ModernBertFamily(),
    Qwen2Family(),
    Qwen3Family(),
    Qwen3MoeFamily(),
    RobertaFamily(),
    T5Family(),
    XLNetFamily(),
)
