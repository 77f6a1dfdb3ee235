"""The contract on disk: directories that one stage writes and the next may rely on.

docs/artifacts.md describes the files.

    artifact     Artifact: a finished directory, read
    output       Output: a directory being written, shards first and the manifest last
    manifest     the records next to the data: a sidecar per shard, one manifest per artifact
    fingerprint  an artifact's identity: a hash of everything that decides its content
    sealed       JSON records that carry their own hash
    shard        one shard written, a few rows at a time
    mapped       one shard read, memory-mapped
    checksum     a checksum for each row
    gather       rows picked from many shards
    buffers      memory for batches, used again
    atomic       files that are either complete or absent
    lock         a lock that the kernel releases when its holder dies
"""

from pipeline.artifacts.artifact import Artifact
from pipeline.artifacts.fingerprint import canonical_json, fingerprint
from pipeline.artifacts.manifest import Manifest, ShardRecord
from pipeline.artifacts.output import Output

__all__ = ["Artifact", "Manifest", "Output", "ShardRecord", "canonical_json", "fingerprint"]
