"""Models, with or without their weights.

architecture.py  a configuration with what it implies: family, shape, size, operations
directory.py     a Transformers directory: its content hash, architecture, weights' names, tokenizer
weights.py       the safetensors files of a directory, by their headers
writing.py       model directories written atomically
published.py     architectures that are known by name, without any file
size.py          parameters of any shape
flops.py         operations of any shape
"""

from pipeline.models.directory import ModelDirectory, open_model

__all__ = ["ModelDirectory", "open_model"]
