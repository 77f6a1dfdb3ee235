"""The student as an ordinary Transformers directory: config, safetensors, generation config, tokenizer, model card."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedModel

from pipeline.models.writing import write_model
from pipeline.training import distributed
from pipeline.training.engine import gather_weights


def export_model(module: PreTrainedModel, directory: Path, tokenizer: Path, card: str) -> list[str]:
    """Gather the weights of a Transformers model under DeepSpeed and write `directory`; every rank must call it.

    tokenizer: the directory whose tokenizer goes along; card: Markdown for README.md. An older `directory` is replaced.
    Returns the names of the files, relative to the parent of `directory`.
    """

    def more(where: Path) -> None:
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(where)
        (where / "README.md").write_text(card, encoding="utf-8")

    weights = dict(gather_weights(module))
    if distributed.rank() == 0:
        write_model(directory, module.config, weights, more)
    distributed.barrier()
    return sorted(
        f"{directory.name}/{path.relative_to(directory)}"
        for path in directory.rglob("*")
        if path.is_file()
    )
