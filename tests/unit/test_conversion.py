"""Models for other runtimes, where these are installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.conversion import to_ctranslate2
from pipeline.errors import ConfigError
from pipeline.models.writing import stored_weights, write_model
from tests.tiny_models import tiny_model
from tests.tiny_t5 import save_tiny_t5


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    text = [line for line in Path("README.md").read_text(encoding="utf-8").splitlines() if line]
    return save_tiny_t5(tmp_path / "t5", text * 3)


# T5 1.0 scales its decoder's output, 1.1 and mT5 do not.
@pytest.mark.parametrize("name", ["t5-v1.0", "t5-v1.1", "mt5"])
def test_ctranslate2_computes_what_transformers_computes(
    name: str, tokenizer: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ctranslate2")
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(tokenizer)
    model = tiny_model(name, vocab_size=len(words))
    write_model(
        tmp_path / "model",
        model.config,
        stored_weights(model),
        lambda where: words.save_pretrained(where),
    )
    to_ctranslate2(tmp_path / "model", tmp_path / "out")  # compares tokens and log-probabilities
    assert (tmp_path / "out" / "model.bin").stat().st_size > 4 * 10_000
    with pytest.raises(ConfigError, match="exists already"):
        to_ctranslate2(tmp_path / "model", tmp_path / "out")


def test_what_cannot_be_converted_is_one_clear_line(tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        to_ctranslate2(tmp_path, tmp_path / "out")
    tiny_model("bart").config.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="is a bart"):
        to_ctranslate2(tmp_path, tmp_path / "out")
