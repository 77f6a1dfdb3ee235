"""The contract on disk: what a stage leaves behind and what the next one may rely on (docs/artifacts.md)."""

from pipeline.artifacts.fingerprint import canonical_json, fingerprint
from pipeline.artifacts.manifest import Manifest, ShardRecord
from pipeline.artifacts.reader import Artifact
from pipeline.artifacts.writer import Output

__all__ = ["Artifact", "Manifest", "Output", "ShardRecord", "canonical_json", "fingerprint"]
