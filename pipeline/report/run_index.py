"""The artifacts of a run, and which of them made what."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.models.directory import ModelDirectory
from pipeline.report.run_files import identity_of, manifest_of
from pipeline.status.progress import read_json

#: Where artifacts lie, in the order in which data flows.
PLACES = ("tokens/*", "distill/*", "teacher_cache/*", "distill_interpolated/*", "distilled/*/*")
#: Where fine-tuned models lie. They can be named as an input, but are reported elsewhere.
UNITS = "finetune/*/*/*/*"
#: Marks an input that this run did not make.
OUTSIDE = "outside"


class RunIndex:
    """The artifacts of a run, found by path, fingerprint or model hash.

    A key is an artifact's path below the run, such as distill/student.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        places = [path for place in PLACES for path in _begun(sorted(root.glob(place)))]
        #: Those before fine-tuning, oldest first.
        self.keys = [path.relative_to(root).as_posix() for path in sorted(places, key=_created)]
        units = [path.relative_to(root).as_posix() for path in _begun(root.glob(UNITS))]
        self._by_fingerprint: dict[Any, str] = {
            identity_of(root / key).get("fingerprint"): key for key in [*self.keys, *units]
        }
        self._by_model = {
            _model_hash(root / key / "hf"): key
            for key in self.keys
            if (root / key / "hf" / "config.json").is_file()
        }

    def maker(self, content: str | None) -> str | None:
        """Return the key of the artifact whose fingerprint or model has that hash.

        None for None; `outside (<short hash>)` when no artifact of this run has it.
        """
        if content is None:
            return None
        own = self._by_fingerprint.get(content) or self._by_model.get(content)
        return own or f"{OUTSIDE} ({content[:12]})"

    def model_directory(self, model_hash: str | None) -> Path | None:
        """Return the directory of this run's model that has that hash."""
        key = self._by_model.get(model_hash)
        return self.root / key / "hf" if key else None

    def row_lengths(self, tokens: str | None) -> tuple[int, int] | None:
        """Return source and target tokens of a row of the token artifact of that fingerprint."""
        key = self._by_fingerprint.get(tokens)
        if key is None:
            return None
        sidecar = next(iter(sorted((self.root / key).glob("shards/*.json"))), None)
        record = read_json(sidecar) if sidecar else None
        if record is None:
            return None
        columns = record["columns"]
        return columns["input_ids"]["row_shape"][0], columns["labels"]["row_shape"][0]


def _begun(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if (path / "fingerprint.json").is_file()]


def _created(root: Path) -> str:
    """Return when an artifact was finished; an unfinished one sorts last."""
    return str(((manifest_of(root) or {}).get("provenance") or {}).get("created") or "unfinished")


def _model_hash(directory: Path) -> str | None:
    try:
        return ModelDirectory(str(directory), directory).content
    except (OSError, ValueError):
        return None
