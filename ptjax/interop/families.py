"""All families of published models that ptjax reads and writes."""

from ptjax.interop.family import Family
from ptjax.interop.gpt2 import GPT2

FAMILIES: tuple[Family, ...] = (GPT2(),)
