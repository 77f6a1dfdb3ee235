"""A model without all of its weights is refused, instead of being completed with random ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import T5EncoderModel

from pipeline.errors import ConfigError
from pipeline.models import open_model
from pipeline.models.loading import load_whole
from tests.tiny_models import MODELS, tiny_model


@pytest.mark.parametrize("name", MODELS)
def test_a_whole_model_loads(tmp_path: Path, name: str) -> None:
    model = tiny_model(name)
    model.save_pretrained(tmp_path)
    loaded = load_whole(open_model(str(tmp_path)), torch.float32)
    for weight, parameter in model.named_parameters():
        assert loaded.get_parameter(weight).equal(parameter), weight


def test_an_encoder_alone_is_refused(tmp_path: Path) -> None:
    T5EncoderModel(tiny_model("t5-v1.0").config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"no weight for decoder.*holds only a part"):
        load_whole(open_model(str(tmp_path)), torch.float32)
