"""The promises of the artifact contract: complete or absent, never stale, no silent damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.artifacts import Artifact, Output
from pipeline.artifacts.manifest import Manifest, shard_path, sidecar_path
from pipeline.errors import ArtifactError, CorruptArtifact, IncompleteArtifact, StaleArtifact


def _output(root: Path, **settings: object) -> Output:
    return Output(root, "tokens", {"stage": "tokens", "settings": settings}, "run: x\n", {})


def _columns(index: int) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.arange(12, dtype=torch.int32).reshape(3, 4) + 100 * index,
        "states": torch.ones(3, 2, 2).bfloat16(),
    }


def _written(root: Path, shards: int = 2) -> Output:
    output = _output(root, views=1)
    output.begin()
    for index in range(shards):
        output.write_shard(index, _columns(index), tokens=12)
    assert output.finish(shards)
    return output


def test_a_finished_artifact_gives_back_the_rows_that_were_written(tmp_path: Path) -> None:
    _written(tmp_path / "a")
    artifact = Artifact(tmp_path / "a", "tokens")
    assert artifact.rows(1, [2, 0], ("input_ids",))["input_ids"].tolist() == [
        [108, 109, 110, 111],
        [100, 101, 102, 103],
    ]
    assert artifact.rows(0, slice(0, 1), ("states",))["states"].dtype == torch.bfloat16
    assert artifact.manifest.totals == {
        "rows": 6,
        "tokens": 24,
        "bytes": sum(s.bytes for s in artifact.shards),
    }


def test_only_missing_shards_are_left_to_do_and_the_manifest_comes_last(tmp_path: Path) -> None:
    output = _output(tmp_path / "a", views=1)
    output.begin()
    output.write_shard(1, _columns(1), tokens=12)
    assert output.missing(3) == [0, 2]
    assert not output.finish(3)
    assert not output.complete()
    with pytest.raises(IncompleteArtifact, match="was not finished"):
        Artifact(tmp_path / "a")
    shard_path(tmp_path / "a", 1).write_bytes(b"cut short")
    assert output.missing(3) == [0, 1, 2], "a shard that does not fit its sidecar is not done"


def test_made_from_something_else_is_refused_and_says_which_field(tmp_path: Path) -> None:
    _written(tmp_path / "a")
    with pytest.raises(StaleArtifact, match=r"settings\.views: 1 -> 2"):
        _output(tmp_path / "a", views=2).complete()
    begun = _output(tmp_path / "b", views=1)
    begun.begin()
    with pytest.raises(StaleArtifact, match=r"settings\.views"):
        _output(tmp_path / "b", views=2).begin()


def test_a_foreign_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(StaleArtifact, match="not an artifact"):
        _output(tmp_path, views=1).begin()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_processes_may_begin_the_same_artifact_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As the tasks of a job array do. The other one begins at the worst moment: after this one saw
    # that nothing has been begun.
    is_dir, others = Path.is_dir, [_output(tmp_path / "a")]

    def is_dir_after_the_other(path: Path) -> bool:
        if path == tmp_path / "a" and others:
            others.pop().begin()
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", is_dir_after_the_other)
    _output(tmp_path / "a").begin()
    assert others == []


def test_a_flipped_byte_is_named_before_it_is_read_and_only_that_shard_is_rebuilt(
    tmp_path: Path,
) -> None:
    output = _written(tmp_path / "a")
    before = Artifact(tmp_path / "a").manifest.content_hash()
    path = shard_path(tmp_path / "a", 1)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # the last row of states
    path.write_bytes(data)
    artifact = Artifact(tmp_path / "a")
    assert (
        artifact.rows(0, [0, 1], ("states",))["states"].tolist()
        == _columns(0)["states"][:2].tolist()
    )
    artifact.rows(1, slice(None), ("input_ids",))
    with pytest.raises(IndexError, match="of shard 1, which has"):
        artifact.rows(1, [0, 99], ("states",))
    assert artifact.rows(1, [], ("states",))["states"].shape == (
        0,
        *_columns(1)["states"].shape[1:],
    )
    with pytest.raises(
        CorruptArtifact,
        match=r"00001\.safetensors is not what was written "
        r"\(the checksum of row 2 of states differs\): .*rm .*00001\.json && python stages/",
    ):
        artifact.rows(1, [0], ("states",))  # small rows are checked in blocks
    with pytest.raises(
        CorruptArtifact, match=r"00001\.safetensors is not what was written \(sha256 differs\)"
    ):
        artifact.verify_shard(1)
    sidecar_path(tmp_path / "a", 1).unlink()
    assert not output.complete()
    assert output.missing(2) == [1]
    output.write_shard(1, _columns(1), tokens=12)
    output.finish(2)
    assert Artifact(tmp_path / "a").manifest.content_hash() == before


def test_a_shard_written_in_parts_is_the_shard_written_at_once(tmp_path: Path) -> None:
    columns = {
        "a": torch.randn(5, 3, 2).bfloat16(),
        "b": torch.arange(5).to(torch.uint16),
        "c": [b"one", b"", b"three", b"4", b"\x00" * 9],
    }
    outputs = [_output(tmp_path / name, views=1) for name in ("whole", "parts")]
    for output in outputs:
        output.begin()
    outputs[0].write_shard(0, columns, tokens=5)
    writer = outputs[1].shard(0, 5)
    for part in (slice(0, 2), slice(2, 3), slice(3, 5)):
        writer.append({name: rows[part] for name, rows in columns.items()})
    assert not shard_path(tmp_path / "parts", 0).exists()
    writer.finish(tokens=5)
    first, second = (shard_path(output.root, 0).read_bytes() for output in outputs)
    assert first == second
    outputs[1].finish(1)
    artifact = Artifact(tmp_path / "parts")
    found = artifact.rows(0, [4, 1], ("a", "b"))
    assert torch.equal(found["a"], columns["a"][[4, 1]])
    assert found["b"].tolist() == [4, 1]
    assert artifact.ragged_rows(0, [2, 1, 4], "c") == [b"three", b"", b"\x00" * 9]
    whole = load_file(shard_path(tmp_path / "parts", 0))
    assert torch.equal(whole["a"], columns["a"])


def test_a_damaged_manifest_is_one_clear_line(tmp_path: Path) -> None:
    _written(tmp_path / "a")
    path = tmp_path / "a" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(path.read_text()[:-20])
    with pytest.raises(CorruptArtifact, match=r"manifest\.json is damaged"):
        Artifact(tmp_path / "a")
    manifest["files"] = {"../../etc/passwd": {"bytes": 1, "sha256": "0"}}
    with pytest.raises(ValueError, match="points outside"):
        Manifest.model_validate(manifest)


def test_a_directory_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot write"):
        _output(tmp_path / "file" / "below", views=1).begin()
