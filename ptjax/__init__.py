"""ptjax: pre-training in JAX, with objectives, bodies and recipes as values that can be compared fairly."""

__version__ = "0.1.0"
