"""All families of published models that ptjax reads and writes."""

from ptjax.interop.albert import Albert
from ptjax.interop.bert import Bert
from ptjax.interop.deberta import DebertaV2
from ptjax.interop.electra import Electra
from ptjax.interop.family import Family
from ptjax.interop.gpt2 import GPT2
from ptjax.interop.llama import LlamaFamily, MistralFamily, Qwen2Family, Qwen3Family
from ptjax.interop.mixtral import MixtralFamily, Qwen3MoeFamily
from ptjax.interop.modernbert import ModernBert
from ptjax.interop.roberta import Roberta
from ptjax.interop.t5 import T5Family
from ptjax.interop.xlnet import XLNetFamily

FAMILIES: tuple[Family, ...] = (
    Albert(),
    Bert(),
    DebertaV2(),
    Electra(),
    GPT2(),
    LlamaFamily(),
    MistralFamily(),
    MixtralFamily(),
    ModernBert(),
    Qwen2Family(),
    Qwen3Family(),
    Qwen3MoeFamily(),
    Roberta(),
    T5Family(),
    XLNetFamily(),
)
