"""What needs no model: TF-IDF with a linear model, and the first words of the source. Their scores stand beside the models'.

Both read the task's columns as the template fills them in; the words that the template adds are the same in every row.
"""

from __future__ import annotations

from pipeline.artifacts import Output
from pipeline.downstream.judge import Predictions, judged, score
from pipeline.downstream.record import Origin, positive_label, write_record
from pipeline.downstream.tasks import Examples, TaskData
from pipeline.lineage import baseline_output
from pipeline.recipe import Recipe, Task

#: Words of the source that `lead` gives as its summary.
LEAD_WORDS = 12


def suits(name: str, task: Task) -> bool:
    """Whether a baseline has an answer to this kind of task."""
    return (name == "lead") == (task.kind == "generation")


def judge_baseline(recipe: Recipe, data: TaskData, name: str) -> Output:
    """Make the unit of one baseline unless it is finished. For one rank."""
    output = baseline_output(recipe, data.task, name)
    if output.complete():
        return output
    parts = {**data.tests(), "validation": data.validation}
    found = _lead(data, parts) if name == "lead" else _tfidf(data, parts)
    output.begin()
    validation = score(data.task, found.pop("validation"), positive_label(data))
    files, _ = write_record(
        output.root,
        Origin(name, baseline=True),
        data,
        found,
        train=data.train,
        validation=validation,
        cut={"sources": 0, "targets": 0},
        resamples=recipe.finetune.resamples,
    )
    output.finish(files=files)
    return output


def _lead(data: TaskData, parts: dict[str, Examples]) -> dict[str, Predictions]:
    prefix = data.task.source.partition("{")[0].strip()
    found = {}
    for name, part in parts.items():
        texts = [source.removeprefix(prefix).split()[:LEAD_WORDS] for source in part.sources]
        found[name] = judged(
            data.task, part.rows, [" ".join(words) for words in texts], part.references
        )
    return found


def _tfidf(data: TaskData, parts: dict[str, Examples]) -> dict[str, Predictions]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline

    task, train = data.task, data.train
    # Words and pairs of words; in more than a handful of rows, those that occur once are noise.
    features = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(train) >= 1000 else 1
    )
    model = make_pipeline(
        features, Ridge() if task.kind == "regression" else LogisticRegression(C=30, max_iter=1000)
    )
    model.fit(train.sources, train.references)
    found = {}
    for name, part in parts.items():
        texts = [
            f"{value:.6g}" if task.kind == "regression" else str(value)
            for value in model.predict(part.sources)
        ]
        found[name] = judged(task, part.rows, texts, part.references)
    return found
