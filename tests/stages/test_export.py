"""The exported student: loads with plain Transformers, generates, and says where it comes from."""

from __future__ import annotations

import hashlib
import re

import pytest

from pipeline.artifacts import Artifact
from tests.tiny_run import TinyRun

pytestmark = pytest.mark.slow


def test_a_student_of_a_chain_loads_generates_and_tells_its_lineage(finished_run: TinyRun) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    root = finished_run.run / "distill_interpolated/chain"
    directory = root / "hf"
    names = {path.name for path in directory.iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "README.md",
    } <= names
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)

    model, report = AutoModelForSeq2SeqLM.from_pretrained(directory, output_loading_info=True)
    assert not any(report.values())
    tokenizer = AutoTokenizer.from_pretrained(directory)
    inputs = tokenizer("A river in <extra_id_0>.", return_tensors="pt")
    generated = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert generated.shape[0] == 1
    assert generated[0, 0] == model.generation_config.decoder_start_token_id
    assert isinstance(tokenizer.batch_decode(generated)[0], str)

    card = (directory / "README.md").read_text()
    links = re.findall(
        r"^\| (\S+) \| ([^|]+) \| (\w+) \| ([\d,]+) × (\d+) \| ([\d.]+) \| `(\w+)` \|$", card, re.M
    )
    above = [
        "distill/teacher",
        "distill_interpolated/chain.assistant-1",
        "distill_interpolated/chain",
    ]
    assert [link[0] for link in links] == [name.split("/")[1] for name in above]
    assert [link[1] for link in links] == ["text alone", "teacher", "chain.assistant-1"]
    for link, name in zip(links, above, strict=True):
        assert Artifact(finished_run.run / name).fingerprint.startswith(link[-1])
    assert Artifact(finished_run.run / "tokens/train").fingerprint in card
    assert Artifact(root).fingerprint in card
    assert str(finished_run.root) not in card, "the same run elsewhere gives the same card"
    recorded = Artifact(root).manifest.files["hf/README.md"].sha256
    assert recorded == hashlib.sha256(card.encode()).hexdigest()
