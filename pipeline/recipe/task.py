"""Section of a downstream task: templates, labels and metrics over rows of text.

Rows come from local files or from a `datasets` name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import field_validator, model_validator

from pipeline.recipe.section import (
    ByContent,
    Naming,
    PerUnit,
    PositiveFloat,
    PositiveInt,
    Section,
)

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
#: Metrics of each kind of task, used when the task names none; the first one judges.
METRICS: dict[str, tuple[Metric, ...]] = {
    "classification": ("accuracy", "matthews", "macro_f1"),
    "regression": ("pearson", "spearman"),
    "generation": ("rouge1", "rouge2", "rougeL", "rougeLsum"),
}


class Values(Section):
    """The numbers a regression predicts: low, low + step, … high.

    STS-B: 0 to 5 by 0.2 (Raffel et al. 2020, section 2.4).
    """

    low: float
    """The smallest number."""
    high: float
    """The largest number."""
    step: PositiveFloat = 0.2
    """The distance between two neighbouring numbers."""

    @model_validator(mode="after")
    def _ordered(self) -> Values:
        if not self.low < self.high:
            raise ValueError("values: low must be below high")
        return self

    def text(self, value: float) -> str:
        """Return the nearest of the numbers, as text; halves go to the even step."""
        # Rounded twice: published labels are float32, and 2.3 must not count as less than half.
        steps = round(round((min(max(value, self.low), self.high) - self.low) / self.step, 5))
        digits = max(
            len(f"{number:.6f}".rstrip("0").partition(".")[2]) for number in (self.step, self.low)
        )
        nearest = round(self.low + steps * self.step, digits) + 0.0  # + 0.0: no minus before a zero
        return f"{nearest:.{digits}f}"

    def texts(self) -> list[str]:
        """Return all the numbers, as text."""
        count = int((self.high - self.low) / self.step + 1e-6) + 1
        return [self.text(self.low + index * self.step) for index in range(count)]


class Task(Section):
    """One task. In a recipe, the path of a task file (tasks/sst2.yaml) may stand for it.

    Rows come from .jsonl, .csv, .tsv or .parquet files, or from
    `hub:NAME[@REVISION][:CONFIG[:SPLIT]]`. A `hub:` source is known by its name alone.
    """

    name: Annotated[str, Naming]
    """The name of the task, and of its results below RUN/finetune/."""
    kind: Literal["classification", "regression", "generation"]
    """Kind of target: one of a set of labels, a number, or any text."""
    train: Annotated[str, ByContent]
    """The training rows."""
    validation: Annotated[str | None, ByContent] = None
    """Rows that choose the best step and the learning rate.
    When absent, a tenth of the training rows is held out, at most `validation_rows`."""
    test: Annotated[str, ByContent]
    """The rows that are scored."""
    more_tests: Annotated[dict[str, str], ByContent] = {}
    """Further test sets by name, e.g. MNLI's `mismatched`."""
    unlabelled: Annotated[str | None, ByContent] = None
    """Rows of which a teacher reads only the sources, to label them for `data: distilled`.
    When absent, the training rows."""
    source: str
    """The input of the model: a Python format string over a row's fields, e.g.
    "summarize: {extract}"."""
    target: str
    """The output of the model: a Python format string over a row's fields."""
    labels: list[str] | dict[str, str] | None = None
    """The label texts of a classification, or a mapping to them from what the target renders to
    ({0: unacceptable, …}). When absent, those of the training rows."""
    positive: str | None = None
    """The label whose F1 `f1` is. When absent, the last of `labels`."""
    values: Values | None = None
    """The numbers of a regression."""
    drop_labels: list[str] = []
    """Rows with one of these labels are left out."""
    metrics: list[Metric] = []
    """Metrics of the predictions; when empty, all metrics of the kind except `f1`.
    The first one judges: early stopping, the choice of a learning rate, retention."""
    decoding: Literal["likelihood", "generation"] = "likelihood"
    """Way in which labels and numbers are predicted: the likeliest text of the set, or any text
    that greedy decoding gives."""
    beams: PositiveInt = 1
    """Beams of the search for generated text; 1 is greedy."""
    length_penalty: float = 1.0
    """A hypothesis' log-likelihood is divided by its length to this power."""
    source_length: PositiveInt = 128
    """Tokens at which a source is cut."""
    target_length: PositiveInt = 32
    """Tokens at which a target is cut for training, and at which generation stops."""
    test_rows: PositiveInt | None = None
    """Score at most this many test rows."""
    max_steps: Annotated[PositiveInt | None, PerUnit] = None
    """Steps for this task where they differ from `finetune.max_steps`."""
    learning_rate: Annotated[PositiveFloat | None, PerUnit] = None
    """Learning rate for this task where it differs from `finetune.learning_rate`.
    The task then takes no part in a sweep."""

    @field_validator("labels", mode="before")
    @classmethod
    def _text_keys(cls, labels: Any) -> Any:
        # YAML reads {0: no} as a number and a bool reads as True: what a row renders to is text.
        if not isinstance(labels, dict):
            return labels
        return {str(key): text for key, text in labels.items()}

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Task:
        known = METRICS[self.kind] + (("f1",) if self.kind == "classification" else ())
        wrong = [metric for metric in self.metrics if metric not in known]
        if wrong:
            raise ValueError(
                f"task {self.name}: {wrong[0]} does not measure a {self.kind}; "
                f"{', '.join(known)} do"
            )
        if (self.kind == "regression") != (self.values is not None):
            raise ValueError(
                f"task {self.name}: `values: {{low: …, high: …}}` belongs to a regression, "
                "and only there"
            )
        if self.labels is not None and self.kind != "classification":
            raise ValueError(f"task {self.name}: labels belong to a classification")
        return self

    @model_validator(mode="after")
    def _positive_is_known(self) -> Task:
        if self.labels is None:
            if "f1" in self.metrics and self.positive is None:
                raise ValueError(
                    f"task {self.name}: f1 needs `positive`, "
                    "or `labels` whose last is the positive one"
                )
        elif self.positive is not None and self.positive not in self.label_texts():
            raise ValueError(
                f"task {self.name}: positive {self.positive!r} is none of "
                f"{', '.join(self.label_texts())}"
            )
        return self

    @model_validator(mode="after")
    def _more_tests_have_names(self) -> Task:
        for part in self.more_tests:
            if not part.replace("_", "").isalnum() or part in ("train", "validation", "test"):
                raise ValueError(
                    f"task {self.name}: more_tests {part!r} needs another name, "
                    "of letters and digits"
                )
        return self

    def label_texts(self) -> list[str]:
        """Return the label texts that the task lists, in their order."""
        labels = self.labels or []
        return list(labels.values()) if isinstance(labels, dict) else labels

    @property
    def measured_by(self) -> tuple[str, ...]:
        """Return the metrics of the task."""
        return tuple(self.metrics) or METRICS[self.kind]

    @property
    def judged_by(self) -> str:
        """Return the metric that early stopping, sweeps and retention look at."""
        return self.measured_by[0]
