"""Content hashes of what comes from outside the pipeline: text files, model directories, tokenizers."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from pipeline.artifacts.atomic import sha256_bytes, sha256_file
from pipeline.artifacts.fingerprint import canonical_json
from pipeline.artifacts.reader import Artifact
from pipeline.errors import ConfigError

#: config.json entries that do not change what a model computes.
_IDLE_CONFIG_KEYS = {
    "transformers_version",
    "_name_or_path",
    "dtype",
    "torch_dtype",
    "architectures",
}
_TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "sentencepiece.bpe.model", "source.spm", "target.spm", "vocab.json",
                    "merges.txt", "special_tokens_map.json", "tokenizer_config.json")  # fmt: skip


def resolve_model(name: str) -> Path:
    """Return the local directory of a model: `name` itself, or its snapshot from the Hugging Face hub.

    Raises ConfigError when it is neither, or holds pickled weights only, and CorruptArtifact when a stage wrote it and its
    bytes have changed since.
    """
    path = Path(name)
    if not path.is_dir():
        path = _from_hub(name)
    if not (path / "config.json").is_file():
        raise ConfigError(
            f"model {name}: no config.json in it; give a directory written by save_pretrained"
        )
    if not weight_files(path):
        reason = (
            "only pickled weights, which are not loaded"
            if [*path.glob("*.bin"), *path.glob("*.pt")]
            else "no weights"
        )
        raise ConfigError(f"model {name}: {reason}; save it with safe_serialization=True first")
    _require_as_written(path)
    return path


def _require_as_written(directory: Path) -> None:
    """Raise CorruptArtifact where a model of this pipeline's own is not what its stage wrote."""
    root = directory.parent
    if directory.name != "hf" or not all(
        (root / name).is_file() for name in ("fingerprint.json", "manifest.json")
    ):
        return
    artifact = Artifact(root)
    for name in artifact.manifest.files:
        if name.startswith("hf/"):
            artifact.verify_file(name, _unchanged_hash)


def weight_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.safetensors"))


def model_hash(directory: Path) -> str:
    """Hash a model by its configuration and weights; where it lies and which release wrote it do not matter."""
    config = json.loads((directory / "config.json").read_text())
    kept = {key: value for key, value in config.items() if key not in _IDLE_CONFIG_KEYS}
    parts = [
        sha256_bytes(canonical_json(kept)),
        *(_unchanged_hash(file) for file in weight_files(directory)),
    ]
    return sha256_bytes("\n".join(parts).encode())


def _unchanged_hash(file: Path) -> str:
    """sha256 of a large file, computed once a process as long as the file's size and time of change stay."""
    status = file.stat()
    return _hash_of_version(file, status.st_size, status.st_mtime_ns)


@cache
def _hash_of_version(file: Path, size: int, mtime_ns: int) -> str:
    return sha256_file(file)


def tokenizer_hash(directory: Path) -> str:
    found = [directory / name for name in _TOKENIZER_FILES if (directory / name).is_file()]
    if not found:
        raise ConfigError(
            f"tokenizer {directory}: no tokenizer files in it; give a directory written by save_pretrained"
        )
    return sha256_bytes("\n".join(f"{f.name}:{sha256_file(f)}" for f in found).encode())


def _from_hub(name: str) -> Path:
    missing = ConfigError(
        f"model {name}: no such directory, and the Hugging Face hub does not give it "
        "(make it first, correct the path, or go online without HF_HUB_OFFLINE)"
    )
    if name.startswith((".", "/")) or name.count("/") > 1:
        raise missing
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                name, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.spm"]
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
        raise missing from None
