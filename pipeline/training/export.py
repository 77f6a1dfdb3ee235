"""Export of the student as an ordinary Transformers directory.

It holds config, safetensors, generation config, tokenizer and model card.
"""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedModel

from pipeline import ranks
from pipeline.models.writing import write_model
from pipeline.training.engine import gather_weights


def export_model(module: PreTrainedModel, directory: Path, tokenizer: Path, card: str) -> list[str]:
    """Gather the weights of a Transformers model under DeepSpeed and write `directory`.

    Every rank must call it; an older `directory` is replaced. tokenizer: the directory of the
    tokenizer to include. card: Markdown for README.md.
    Returns the names of the files, relative to the parent of `directory`.
    """

    def write_tokenizer_and_card(target: Path) -> None:
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(target)
        (target / "README.md").write_text(card, encoding="utf-8")

    weights = dict(gather_weights(module))
    if ranks.rank() == 0:
        write_model(directory, module.config, weights, write_tokenizer_and_card)
    ranks.barrier()
    return sorted(
        f"{directory.name}/{path.relative_to(directory)}"
        for path in directory.rglob("*")
        if path.is_file()
    )
