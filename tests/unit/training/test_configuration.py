"""DeepSpeed's JSON owns ZeRO and the optimizer's kind; the recipe owns what is written "auto"
there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.recipe import Distill
from pipeline.training.configuration import deepspeed_config


def test_the_recipe_fills_the_autos() -> None:
    config = deepspeed_config(
        Distill(deepspeed="ds_configs/zero3.json", batch_size=24, micro_batch_size=8), world=1
    )
    assert config["train_batch_size"] == 24
    assert config["gradient_accumulation_steps"] == 3
    assert "auto" not in json.dumps(config)


def test_a_key_set_in_both_is_refused(tmp_path: Path) -> None:
    mine = json.loads(Path("ds_configs/zero3.json").read_text()) | {"train_batch_size": 7}
    (tmp_path / "mine.json").write_text(json.dumps(mine))
    with pytest.raises(
        ConfigError, match=r"train_batch_size belongs to the recipe; write \"auto\" there"
    ):
        deepspeed_config(Distill(deepspeed=str(tmp_path / "mine.json")), world=1)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size 10 is not a multiple of micro_batch_size 4"):
        deepspeed_config(
            Distill(deepspeed="ds_configs/zero3.json", batch_size=10, micro_batch_size=4), world=1
        )
