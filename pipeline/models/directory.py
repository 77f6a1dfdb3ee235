"""A model directory, as `save_pretrained` writes it or the hub gives it.

Opening one reads no weights and imports neither torch nor Transformers, so that an up-to-date stage
answers at once. Everything else is read once, when it is first asked for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts import Artifact
from pipeline.artifacts.atomic import sha256_bytes, sha256_file
from pipeline.artifacts.fingerprint import canonical_json
from pipeline.errors import ConfigError
from pipeline.models import weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pipeline.models.architecture import Architecture

#: config.json entries that do not change what a model computes.
_IDLE_CONFIG_KEYS = {
    "transformers_version",
    "_name_or_path",
    "dtype",
    "torch_dtype",
    "architectures",
}
_TOKENIZER_FILES = (
    "tokenizer.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "source.spm",
    "target.spm",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer_config.json",
)


@dataclass(frozen=True)
class ModelDirectory:
    """A directory with config.json and safetensors files, opened by `open_model`."""

    #: As in the recipe: a directory or a hub name.
    name: str
    path: Path = field(compare=False)

    @cached_property
    def content(self) -> str:
        """The sha256 of configuration and weights.

        It depends neither on where they are nor on the release that wrote them.
        """
        config = json.loads((self.path / "config.json").read_text())
        counted = {key: value for key, value in config.items() if key not in _IDLE_CONFIG_KEYS}
        files = weights.weight_files(self.path)
        parts = [sha256_bytes(canonical_json(counted)), *(_hash_of(file) for file in files)]
        return sha256_bytes("\n".join(parts).encode())

    @cached_property
    def tokenizer_content(self) -> str:
        """The sha256 of the tokenizer's files; raises ConfigError if there are none."""
        return tokenizer_hash(self.path)

    @cached_property
    def has_tokenizer(self) -> bool:
        names = ("tokenizer.json", "spiece.model", "tokenizer_config.json")
        return any((self.path / name).is_file() for name in names)

    @cached_property
    def weights(self) -> dict[str, weights.Entry]:
        """Every tensor of the weight files by name; only the headers are read.

        Raises CorruptArtifact for a file that is not a safetensors file.
        """
        return weights.read_entries(self.path)

    @cached_property
    def architecture(self) -> Architecture:
        """The architecture; the names of the weights decide whether the LM head is separate.

        Raises ConfigError for a model type that is not supported.
        """
        from transformers import AutoConfig

        from pipeline.families import family_of
        from pipeline.models.architecture import Architecture

        config = AutoConfig.from_pretrained(self.path)
        return Architecture(config, family_of(config).head_is_separate(self.weights.keys()))

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.path)


def open_model(name: str) -> ModelDirectory:
    """Return the directory of a model: `name` itself, or its snapshot from the Hugging Face hub.

    Raises ConfigError if it is neither, or has no safetensors files. Raises CorruptArtifact if a
    stage of this pipeline wrote the directory and its bytes have changed since.
    """
    path = Path(name)
    if not path.is_dir():
        path = _from_hub(name)
    if not (path / "config.json").is_file():
        raise ConfigError(
            f"model {name}: no config.json in it; give a directory written by save_pretrained"
        )
    if not weights.weight_files(path):
        pickled = [*path.glob("*.bin"), *path.glob("*.pt")]
        reason = "only pickled weights, which are not loaded" if pickled else "no weights"
        raise ConfigError(f"model {name}: {reason}; save it with safe_serialization=True first")
    _require_as_written(path)
    return ModelDirectory(name, path)


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer in `directory`; raises ConfigError if there is none that can be used."""
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{directory}: its tokenizer cannot be loaded ({error})") from None
    if tokenizer.pad_token_id is None:
        raise ConfigError(f"{directory}: its tokenizer has no padding token")
    return tokenizer


def same_vocabulary(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase) -> bool:
    """Return whether two tokenizers give every token the same id."""
    return bool(a.get_vocab() == b.get_vocab())


def tokenizer_hash(directory: Path) -> str:
    """Return the sha256 over a tokenizer's files; raises ConfigError if there are none."""
    files = [directory / name for name in _TOKENIZER_FILES if (directory / name).is_file()]
    if not files:
        raise ConfigError(
            f"tokenizer {directory}: no tokenizer files in it; "
            "give a directory written by save_pretrained"
        )
    return sha256_bytes("\n".join(f"{f.name}:{sha256_file(f)}" for f in files).encode())


def _require_as_written(directory: Path) -> None:
    """Raise CorruptArtifact if a stage wrote this model and its bytes have changed since."""
    root = directory.parent
    names = ("fingerprint.json", "manifest.json")
    if directory.name != "hf" or not all((root / name).is_file() for name in names):
        return
    artifact = Artifact(root)
    for name in artifact.manifest.files:
        if name.startswith("hf/"):
            artifact.verify_file(name, _hash_of)


def _hash_of(file: Path) -> str:
    """Return the sha256 of a large file, computed once a process while size and time stay."""
    status = file.stat()
    return _hash_of_version(file, status.st_size, status.st_mtime_ns)


@cache
def _hash_of_version(file: Path, size: int, mtime_ns: int) -> str:
    return sha256_file(file)


def _from_hub(name: str) -> Path:
    missing = ConfigError(
        f"model {name}: no such directory, and the Hugging Face hub does not give it "
        "(make it first, correct the path, or go online without HF_HUB_OFFLINE)"
    )
    if name.startswith((".", "/")) or name.count("/") > 1:
        raise missing
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.spm"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
        raise missing from None
