"""The recipe: one YAML file that says everything a run is made from.

Strict: an unknown key is an error that names the nearest known one. `extends: other.yaml` starts from another recipe;
`section.key=value` on the command line overrides both. `{run}` in a path stands for the recipe's `run` directory.
Paths are relative to the directory the stage is started in.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import ConfigError

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Dtype = Literal["auto", "bfloat16", "float32", "float16"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Split(Section):
    """Shares of documents held out, chosen by a hash of each document's key so that they never move."""

    validation: Fraction = 0.01
    test: Fraction = 0.0


class Corpus(Section):
    #: Files (.txt, .jsonl, .jsonl.gz, .jsonl.zst, .parquet) or `datasets` names written `hub:NAME[:CONFIG[:SPLIT]]`.
    sources: list[str] = Field(min_length=1)
    #: The field that holds a document's text in .jsonl, .parquet and datasets.
    text: str = "text"
    #: The field whose hash decides the split; the text itself when absent.
    key: str | None = None
    split: Split = Split()


class Tokenizer(Section):
    #: A tokenizer directory or hub name to use as it is; a SentencePiece model is trained on the corpus when absent.
    path: str | None = None
    #: Pieces to train, special tokens included, sentinels not.
    vocab_size: PositiveInt = 8000
    #: Sentinel tokens <extra_id_0> … added after the pieces.
    sentinels: PositiveInt = 100


class Tokens(Section):
    """Span corruption in T5's own arithmetic (Raffel et al. 2020, section 3.1.4)."""

    input_length: PositiveInt = 512
    noise_density: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    mean_span_length: Annotated[float, Field(ge=1.0)] = 3.0
    #: Independent corruptions of the corpus.
    views: PositiveInt = 1
    #: Consecutive documents that make one shard (times the views).
    documents_per_shard: PositiveInt = 10_000


class Teacher(Section):
    #: A Transformers directory or hub name.
    model: str
    #: The name of its cache below RUN/teacher_cache/.
    name: str = "teacher"
    dtype: Dtype = "auto"
    #: A DeepSpeed JSON (ds_configs/zero3_inference.json) for a teacher too large for one device: it runs partitioned over the ranks.
    deepspeed: str | None = None


class States(Section):
    """Hidden states at the cut, from which the tail replays everything after it."""

    #: How they are stored; `auto` is the dtype the teacher computes in. int8 has a bfloat16 scale for every group.
    dtype: Literal["auto", "bfloat16", "float32", "int8"] = "auto"
    #: Features that share one int8 scale.
    group_size: PositiveInt = 64
    #: The largest numbers of each row, kept beside int8 in bfloat16.
    outliers: NonNegativeInt = 8
    #: Store the encoder's output too: an objective that looks at nothing of the encoder's blocks then replays the decoder alone.
    encoder_output: bool = False


class Sampled(Section):
    """Unbiased sparse logits (arXiv 2503.16870)."""

    #: Draws from the teacher's distribution at each target position.
    draws: Annotated[int, Field(ge=1, le=1000)] = 50
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    #: `independent` draws, as in the paper, or `systematic` ones: as unbiased, with less variance.
    method: Literal["independent", "systematic"] = "independent"


class Topk(Section):
    """The most probable tokens at each target position and the mass of all others; biased."""

    k: PositiveInt = 50


TargetKind = Literal["states", "sampled", "topk"]


class Cache(Section):
    #: What is cached, in one pass of the teacher.
    kinds: list[TargetKind] = Field(default=["states"], min_length=1)
    #: Block of each stack whose input is stored; negative counts from the end.
    encoder_cut: int = -1
    decoder_cut: int = -1
    states: States = States()
    sampled: Sampled = Sampled()
    topk: Topk = Topk()
    #: Examples in one teacher forward pass. Part of the cache's identity: other batches round otherwise.
    batch_size: PositiveInt = 16


class Student(Section):
    """A student's shape; what is left out is the teacher's (or, without a teacher, T5 v1.1's)."""

    encoder_layers: PositiveInt | None = None
    decoder_layers: PositiveInt | None = None
    d_model: PositiveInt | None = None
    d_ff: PositiveInt | None = None
    num_heads: PositiveInt | None = None
    d_kv: PositiveInt | None = None
    #: `layers` copies evenly spaced blocks and the embeddings of the teacher; `random` starts from nothing.
    init: Literal["layers", "random"] = "layers"


class Optimisation(Section):
    """What the recipe owns of training; DeepSpeed's JSON owns ZeRO and leaves these at "auto"."""

    max_steps: PositiveInt = 100_000
    #: Examples in one optimiser step, over all ranks.
    batch_size: PositiveInt = 256
    #: Examples in one forward pass on one rank; all of a rank's share when absent.
    micro_batch_size: PositiveInt | None = None
    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-4
    warmup_steps: NonNegativeInt = 1000
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    #: The learning rate ends at this share of its peak.
    final_fraction: Fraction = 0.1
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    gradient_clipping: Annotated[float, Field(ge=0.0)] = 1.0
    dropout: Fraction = 0.0
    dtype: Dtype = "auto"
    deepspeed: str = "ds_configs/zero3.json"
    log_every: PositiveInt = 10
    validate_every: PositiveInt = 1000
    validation_rows: PositiveInt = 512
    save_every: PositiveInt = 1000
    #: Save also when this many minutes have gone by since the last time.
    save_minutes: Annotated[float, Field(gt=0.0)] = 30.0
    keep_checkpoints: PositiveInt = 2
    #: Stop after so many steps in a row whose gradients are not finite. Such a step is skipped: weights stay as they were.
    max_skipped_steps: PositiveInt = 10


class Schedule(Section):
    """A weight that moves linearly from `start` to `end` over `steps` optimiser steps, and stays there."""

    start: Annotated[float, Field(ge=0.0)]
    end: Annotated[float, Field(ge=0.0)]
    steps: PositiveInt


class Taid(Section):
    """Adaptive interpolation of the target, from the student's distribution to the teacher's (arXiv 2501.16937)."""

    #: The teacher's share of the target at the first step.
    start: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.4
    alpha: Annotated[float, Field(gt=0.0)] = 5e-4
    beta: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99


#: A block counted from the end of its stack: -1 is the last.
FromEnd = Annotated[int, Field(le=-1)]


class Blocks(Section):
    """Which block's q, k and v the relation and attention parts compare."""

    #: When absent the block at the cache's cut, or the last one with `targets: online`.
    teacher_encoder: FromEnd | None = None
    teacher_decoder: FromEnd | None = None
    student_encoder: FromEnd = -1
    student_decoder: FromEnd = -1


class HiddenPair(Section):
    """Two places whose hidden states the part `hidden` compares: the states entering a block, or the stack's output."""

    stack: Literal["encoder", "decoder"]
    teacher: FromEnd | Literal["output"] = "output"
    student: FromEnd | Literal["output"] = "output"


class Objective(Section):
    preset: Literal["lm", "logits", "minilm", "minilm_v1", "tinybert", "miniend"] = "miniend"
    #: Weights that differ from the preset's, by part (pipeline/objectives/presets.py lists them); constant or scheduled.
    weights: dict[str, Annotated[float, Field(ge=0.0)] | Schedule] = {}
    #: How the part `logits` compares distributions, where full logits of the teacher are at hand (docs/objectives.md).
    divergence: Literal["forward_kl", "reverse_kl", "jensen_shannon", "skew_kl", "skew_reverse_kl"] = "forward_kl"
    #: The mixing coefficient of jensen_shannon (0.5 when absent) and of the skewed kinds (0.1 when absent).
    alpha: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    taid: Taid | None = None
    #: Relation heads the q/k/v are re-split into; when absent the most, up to the student's heads, that both widths divide into.
    relation_heads: PositiveInt | None = None
    blocks: Blocks = Blocks()
    hidden: list[HiddenPair] = Field(default=[HiddenPair(stack="encoder"), HiddenPair(stack="decoder")], min_length=1)
    hidden_kind: Literal["mse", "cosine"] = "mse"


class Distill(Optimisation):
    #: The name of the result below RUN/distill/.
    name: str = "student"
    objective: Objective = Objective()
    #: Where the teacher's side of the objective comes from: a kind of target in its cache, or the teacher itself at every step.
    targets: Literal["states", "sampled", "topk", "online"] = "states"


class Interpolated(Section):
    #: The name of the result below RUN/distill_interpolated/.
    name: str = "student"
    assistants: PositiveInt = 1
    #: Share of `distill.max_steps` each link takes, teacher side first; equal when absent.
    step_shares: list[Annotated[float, Field(gt=0.0)]] | None = None


class Task(Section):
    """A text-to-text task over local files or a `datasets` name (`hub:NAME[:CONFIG]`)."""

    name: str
    kind: Literal["classification", "generation"]
    train: str
    validation: str | None = None
    test: str
    #: Python format strings over a row's fields, e.g. "summarize: {extract}".
    source: str
    target: str
    #: The label texts of a classification task; those of the training rows when absent.
    labels: list[str] | None = None
    drop_labels: list[str] = []
    source_length: PositiveInt = 128
    target_length: PositiveInt = 32
    #: Score at most this many test rows.
    test_rows: PositiveInt | None = None
    #: Steps for this task where they differ from `finetune.max_steps`.
    max_steps: PositiveInt | None = None
    #: Learning rate for this task where it differs from `finetune.learning_rate`.
    learning_rate: Annotated[float, Field(gt=0.0)] | None = None


class FineTune(Optimisation):
    name: str = "comparison"
    deepspeed: str = "ds_configs/zero2_finetune.json"
    #: Models to compare, by name: a Transformers directory or hub name each.
    models: dict[str, str] = {}
    tasks: list[Task] = []

    def for_task(self, task: Task) -> FineTune:
        """The settings `task` is trained with: these, but for what the task itself says."""
        own = {"max_steps": task.max_steps, "learning_rate": task.learning_rate}
        return self.model_copy(update={name: value for name, value in own.items() if value is not None})


class Recipe(Section):
    run: str
    seed: NonNegativeInt = 0
    corpus: Corpus | None = None
    tokenizer: Tokenizer = Tokenizer()
    tokens: Tokens = Tokens()
    teacher: Teacher | None = None
    cache: Cache = Cache()
    student: Student = Student()
    distill: Distill = Distill()
    interpolated: Interpolated = Interpolated()
    finetune: FineTune = FineTune()

    @model_validator(mode="after")
    def _names(self) -> Recipe:
        names = [self.teacher.name] if self.teacher is not None else []
        names += [self.distill.name, self.interpolated.name, self.finetune.name, *self.finetune.models]
        names += [task.name for task in self.finetune.tasks]
        for name in names:
            if not name or not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
                raise ValueError(f"name {name!r} may hold letters, digits, '-', '_' and '.' only")
        return self

    @property
    def root(self) -> Path:
        return Path(self.run)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe with its `extends` chain and overrides; raises ConfigError with one line on the first fault."""
    raw = _read(Path(path), ())
    for override in overrides:
        _apply_override(raw, override)
    run = raw.get("run")
    if isinstance(run, str):
        raw = _substitute(raw, run.rstrip("/"))
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"recipe {path}: {_explain(error)}") from None


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise ConfigError(f"recipe {path}: `extends` goes round in a circle")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"recipe {path} does not exist: give a file such as recipes/demo.yaml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe {path} is not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"recipe {path} must be a mapping with at least `run:`")
    base = raw.pop("extends", None)
    if base is None:
        return raw
    return _merge(_read(path.parent / str(base), (*seen, path.resolve())), raw)


def _merge(base: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _apply_override(raw: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise ConfigError(f"override {override!r}: write section.key=value, e.g. distill.max_steps=100")
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        raise ConfigError(f"override {override!r}: the value is not valid YAML") from None
    target = raw
    for key in keys[:-1]:
        inner = target.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {key} is not a section")
        target = inner
    target[keys[-1]] = value


def _substitute(value: Any, run: str) -> Any:
    if isinstance(value, str):
        return value.replace("{run}", run)
    if isinstance(value, dict):
        return {key: _substitute(item, run) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, run) for item in value]
    return value


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        return f"{where}: {first['msg']}" if where else str(first["msg"]).removeprefix("Value error, ")
    *section, key = first["loc"]
    known = _known_keys(section)
    near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
    hint = f"did you mean {'.'.join([*map(str, section), near[0]])}?" if near else f"known keys: {', '.join(known)}"
    return f"unknown key {where}; {hint}"


def _known_keys(section: Sequence[Any]) -> list[str]:
    model: Any = Recipe
    for part in section:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(model.model_fields)
