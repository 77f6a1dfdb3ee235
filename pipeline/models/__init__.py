"""Models, with or without their weights.

A model that has no files is an `Architecture`; one that has is a `ModelDirectory`, from which its
architecture follows.

architecture.py  a configuration with what it implies: family, shape, parameters, operations
directory.py     a Transformers directory: content hash, architecture, weights' names, tokenizer
weights.py       the safetensors files of a directory, by their headers
loading.py       a whole model, with every weight it has
writing.py       model and tail directories, written atomically
published.py     architectures found by name: a directory, the hub, or the published ones (*.yaml)
size.py          parameters of any shape
counts.py        parameters and blocks of a directory, without torch
flops.py         operations of any shape
"""

from pipeline.models.directory import ModelDirectory, open_model

__all__ = ["ModelDirectory", "open_model"]
