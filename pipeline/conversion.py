"""`miniend export`: convert a model directory for another runtime, and compare the results."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.atomic import publish_directory, temporary_name
from pipeline.console import quiet_libraries, say
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    import torch

#: Both sides compute in float32: a larger difference of log-probabilities is another computation.
TOLERANCE = 1e-3
#: The comparison: rows, tokens of an input, tokens generated at most.
_ROWS, _INPUTS, _OUTPUTS = 4, 24, 12


def to_ctranslate2(directory: Path, out: Path) -> None:
    """Write `directory` to `out` for CTranslate2 in float32.

    Transformers and CTranslate2 must generate the same tokens greedily and score them the same.
    Raises ConfigError where ctranslate2 is not installed or does not know the model, where `out`
    exists, and where the results differ; nothing is left then.
    """
    quiet_libraries()
    try:
        import ctranslate2
    except ImportError:
        raise ConfigError("--format ct2 needs CTranslate2: pip install 'miniend[ct2]'") from None
    if out.exists():
        raise ConfigError(f"--out {out} exists already: name a directory that does not")
    if not (directory / "config.json").is_file():
        raise ConfigError(
            f"{directory} has no config.json: give a model directory, "
            "such as RUN/distill/student/hf"
        )
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(directory)
    if config.model_type not in ("t5", "mt5", "umt5"):
        raise ConfigError(
            f"--format ct2 is for T5, mT5 and umT5; {directory} is a {config.model_type} "
            "(docs/adr/0008)"
        )
    temporary = temporary_name(out)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        _converter(directory).convert(str(temporary))
        worst = _compare(directory, ctranslate2.Translator(str(temporary), device="cpu"))
        publish_directory(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    say(f"{out}: {_ROWS} greedy generations as Transformers', log-probabilities within {worst:.1g}")


def _converter(directory: Path) -> Any:
    from ctranslate2.converters import TransformersConverter

    from pipeline.families import family_of

    class Converter(TransformersConverter):
        def load_model(self, *args: Any, **kwargs: Any) -> Any:
            model = super().load_model(*args, **kwargs)
            # CTranslate2 scales the decoder's output where the configuration says that the head is
            # tied, which Transformers 5 says for every T5. Greedy generation would not show it;
            # scores and beams would.
            model.config.tie_word_embeddings = family_of(model.config).head(model).scale != 1.0
            return model

    return Converter(str(directory))


def _compare(directory: Path, translator: Any) -> float:
    """Return the largest difference of a log-probability over a few random rows.

    Raises ConfigError when tokens differ or the difference is above TOLERANCE.
    """
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(directory, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for _ in range(_ROWS):
        ids = torch.randint(3, len(tokenizer) - 1, (1, _INPUTS), generator=generator)
        ids[0, -1] = tokenizer.eos_token_id
        tokens, expected = _transformers_scores(model, ids)
        kept = [token for token in tokens if token != tokenizer.eos_token_id]
        source = tokenizer.convert_ids_to_tokens(ids[0].tolist())
        generated = translator.translate_batch([source], beam_size=1, max_decoding_length=_OUTPUTS)[
            0
        ].hypotheses[0]
        if tokenizer.convert_tokens_to_ids(generated) != kept:
            raise ConfigError(
                f"{directory}: CTranslate2 generates other tokens than Transformers; "
                "nothing was written"
            )
        target = tokenizer.convert_ids_to_tokens(kept)
        scores = translator.score_batch([source], [target])[0].log_probs[: len(kept)]
        differences = (expected[: len(kept)] - torch.tensor(scores)).abs()
        worst = max([worst, *differences.tolist()])
    if worst > TOLERANCE:
        raise ConfigError(
            f"{directory}: CTranslate2's log-probabilities differ from Transformers' by "
            f"{worst:.2g}; nothing was written"
        )
    return worst


def _transformers_scores(model: Any, ids: torch.Tensor) -> tuple[list[int], torch.Tensor]:
    """Generate greedily from `ids` [1, inputs]; return the tokens and their log-probabilities."""
    import torch

    with torch.no_grad():
        tokens = model.generate(
            input_ids=ids, max_new_tokens=_OUTPUTS, do_sample=False, num_beams=1
        )[0, 1:]
        logits = model(input_ids=ids, labels=tokens.unsqueeze(0)).logits[0]
    return tokens.tolist(), torch.log_softmax(logits, -1)[range(len(tokens)), tokens]
