"""Presets and the table of relation pairs; neither they nor schedules may load torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.errors import ConfigError
from pipeline.objectives.presets import (
    NEEDS_TEACHER,
    PARTS,
    PRESETS,
    RELATION_PAIRS,
    needs_teacher,
    resolve,
)


def test_presets_name_known_parts() -> None:
    for weights in PRESETS.values():
        assert set(weights) <= set(PARTS)
    assert {p for p in PARTS if p.endswith("relations")} == set(RELATION_PAIRS)


def test_resolve_overrides_and_drops_zeros_in_order() -> None:
    assert resolve("lm") == {"lm": 1.0}
    weights = resolve("miniend", {"logits": 0.0, "encoder_relations": 0.5})
    assert list(weights.items()) == [
        ("lm", 1.0),
        ("encoder_relations", 0.5),
        ("decoder_relations", 1.0),
        ("cross_relations", 1.0),
    ]
    assert "logits" in PRESETS["miniend"]  # the preset itself is untouched


@pytest.mark.parametrize(
    ("preset", "overrides", "says"),
    [
        ("minien", {}, "did you mean miniend"),
        ("zzz", {}, "known: lm, logits"),
        ("lm", {"cross_relation": 1.0}, "did you mean cross_relations"),
        ("lm", {"lm": -1.0}, "at least 0"),
        ("lm", {"lm": float("nan")}, "at least 0"),
        ("lm", {"lm": 0.0}, "every objective weight is zero"),
    ],
)
def test_resolve_names_what_is_wrong(preset: str, overrides: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        resolve(preset, overrides)


def test_only_the_lm_loss_needs_no_teacher() -> None:
    assert not needs_teacher(resolve("lm"))
    assert not needs_teacher({"lm": 1.0, "logits": 0.0})
    for part in PARTS[1:]:
        assert part in NEEDS_TEACHER
        assert needs_teacher({part: 0.1})


def test_pairs_fit_the_attention_they_belong_to() -> None:
    for part, pairs in RELATION_PAIRS.items():
        for pair in pairs:
            if part == "cross_relations":
                assert (pair.rows, pair.columns) == tuple(
                    "decoder" if x == "q" else "encoder" for x in pair[:2]
                )
            else:
                assert pair.rows == pair.columns == part.split("_")[0]
            assert pair.causal == (pair.rows == pair.columns == "decoder")


def test_asking_presets_loads_no_torch() -> None:
    code = (
        "import sys; import pipeline.objectives.presets, pipeline.objectives.weight_schedules; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
