"""A downstream task: text-to-text templates, labels and metrics over rows of local files or of a `datasets` name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.recipe.base import PositiveInt, Section

Metric = Literal[
    "accuracy",
    "f1",
    "macro_f1",
    "matthews",
    "pearson",
    "spearman",
    "rouge1",
    "rouge2",
    "rougeL",
    "rougeLsum",
]
#: What each kind of task can be measured by, and is unless the task says otherwise; the first is what it is judged by.
METRICS: dict[str, tuple[Metric, ...]] = {
    "classification": ("accuracy", "matthews", "macro_f1"),
    "regression": ("pearson", "spearman"),
    "generation": ("rouge1", "rouge2", "rougeL", "rougeLsum"),
}


class Values(Section):
    """The numbers a regression predicts: low, low + step, … high. STS-B: 0 to 5 by 0.2 (Raffel et al. 2020, section 2.4)."""

    low: float
    high: float
    step: Annotated[float, Field(gt=0.0)] = 0.2

    @model_validator(mode="after")
    def _ordered(self) -> Values:
        if not self.low < self.high:
            raise ValueError("values: low must be below high")
        return self

    def text(self, value: float) -> str:
        """The nearest of the numbers, as text; halves go to the even step."""
        # Rounded twice: published labels are float32, and 2.3 must not count as less than half.
        steps = round(round((min(max(value, self.low), self.high) - self.low) / self.step, 5))
        digits = max(
            len(f"{number:.6f}".rstrip("0").partition(".")[2]) for number in (self.step, self.low)
        )
        return f"{round(self.low + steps * self.step, digits) + 0.0:.{digits}f}"  # + 0.0: no minus before a zero

    def texts(self) -> list[str]:
        count = int((self.high - self.low) / self.step + 1e-6) + 1
        return [self.text(self.low + index * self.step) for index in range(count)]


class Task(Section):
    """One task. Rows come from .jsonl, .csv, .tsv or .parquet files, or from `hub:NAME[@REVISION][:CONFIG[:SPLIT]]`."""

    name: str
    kind: Literal["classification", "regression", "generation"]
    train: str
    #: Rows that choose the best step and the learning rate. When absent, a tenth of the training rows is held out.
    validation: str | None = None
    test: str
    #: Further test sets by name, e.g. MNLI's `mismatched`.
    more_tests: dict[str, str] = {}
    #: Rows whose sources alone a teacher labels for `data: distilled`; the training rows when absent.
    unlabelled: str | None = None
    #: Python format strings over a row's fields, e.g. "summarize: {extract}".
    source: str
    target: str
    #: The label texts of a classification, or a mapping to them from what the target renders to ({0: unacceptable, …}); those of
    #: the training rows when absent.
    labels: list[str] | dict[str, str] | None = None
    #: The label whose F1 `f1` is; the last of `labels` when absent.
    positive: str | None = None
    #: The numbers of a regression.
    values: Values | None = None
    drop_labels: list[str] = []
    #: The first one judges: early stopping, the choice of a learning rate, retention.
    metrics: list[Metric] = []
    #: Labels and numbers: the likeliest text of the set, or whatever greedy decoding gives.
    decoding: Literal["likelihood", "generation"] = "likelihood"
    #: Beam search for generated text; 1 is greedy.
    beams: PositiveInt = 1
    #: A hypothesis' log-likelihood is divided by its length to this power.
    length_penalty: float = 1.0
    source_length: PositiveInt = 128
    target_length: PositiveInt = 32
    #: Score at most this many test rows.
    test_rows: PositiveInt | None = None
    #: Steps for this task where they differ from `finetune.max_steps`.
    max_steps: PositiveInt | None = None
    #: Learning rate for this task where it differs from `finetune.learning_rate`; there is then no sweep.
    learning_rate: Annotated[float, Field(gt=0.0)] | None = None

    @field_validator("labels", mode="before")
    @classmethod
    def _text_keys(cls, labels: Any) -> Any:
        # YAML reads {0: no} as a number and a bool reads as True: what a row renders to is text.
        return (
            {str(key): text for key, text in labels.items()} if isinstance(labels, dict) else labels
        )

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        known = METRICS[self.kind] + (("f1",) if self.kind == "classification" else ())
        wrong = [metric for metric in self.metrics if metric not in known]
        if wrong:
            raise ValueError(
                f"task {self.name}: {wrong[0]} does not measure a {self.kind}; {', '.join(known)} do"
            )
        if (self.kind == "regression") != (self.values is not None):
            raise ValueError(
                f"task {self.name}: `values: {{low: …, high: …}}` belongs to a regression, and only there"
            )
        if self.labels is not None and self.kind != "classification":
            raise ValueError(f"task {self.name}: labels belong to a classification")
        if (
            self.positive is not None
            and self.labels is not None
            and self.positive not in self.label_texts()
        ):
            raise ValueError(
                f"task {self.name}: positive {self.positive!r} is none of {', '.join(self.label_texts())}"
            )
        if "f1" in self.metrics and self.labels is None and self.positive is None:
            raise ValueError(
                f"task {self.name}: f1 needs `positive`, or `labels` whose last is the positive one"
            )
        for part in self.more_tests:
            if not part.replace("_", "").isalnum() or part in ("train", "validation", "test"):
                raise ValueError(
                    f"task {self.name}: more_tests {part!r} needs another name, of letters and digits"
                )
        return self

    def label_texts(self) -> list[str]:
        labels = self.labels or []
        return list(labels.values()) if isinstance(labels, dict) else labels

    @property
    def measured_by(self) -> tuple[str, ...]:
        return tuple(self.metrics) or METRICS[self.kind]

    @property
    def judged_by(self) -> str:
        return self.measured_by[0]
