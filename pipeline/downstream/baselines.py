"""Baselines that need no model: TF-IDF with a linear model, and the first words of the source.

Both read the task's columns as the template renders them; the words that the template adds are the
same in every row.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.downstream.job import BaselineJob
from pipeline.downstream.task_metrics import Predictions, evaluate, pair_predictions
from pipeline.downstream.tasks import Examples, TaskData
from pipeline.downstream.unit_record import ModelOrigin, write_unit

#: Words of the source that `lead` gives as its summary.
LEAD_WORDS = 12


def make_baseline(job: BaselineJob, data: TaskData) -> None:
    """Make the unit of one baseline unless it is finished. For one rank."""
    if job.complete():
        return
    parts = {**data.tests(), "validation": data.validation}
    predictions = _lead(data, parts) if job.name == "lead" else _tfidf(data, parts)
    job.output.begin()
    validation = evaluate(data.task, predictions.pop("validation"), data.positive)
    files, _ = write_unit(
        job.root,
        ModelOrigin(model=job.name, baseline=True),
        data,
        predictions,
        train=data.train,
        validation=validation,
        cut={"sources": 0, "targets": 0},
        resamples=job.resamples,
    )
    job.output.finish(files=files)


def _lead(data: TaskData, parts: Mapping[str, Examples]) -> dict[str, Predictions]:
    prefix = data.task.source.partition("{")[0].strip()
    predictions = {}
    for name, part in parts.items():
        words = [source.removeprefix(prefix).split()[:LEAD_WORDS] for source in part.sources]
        texts = [" ".join(some) for some in words]
        predictions[name] = pair_predictions(data.task, part.rows, texts, part.references)
    return predictions


def _tfidf(data: TaskData, parts: Mapping[str, Examples]) -> dict[str, Predictions]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline

    task, train = data.task, data.train
    # Words and pairs of words. With 1000 rows or more, those that occur once are noise.
    features = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(train) >= 1000 else 1
    )
    is_number = task.kind == "regression"
    model = make_pipeline(
        features, Ridge() if is_number else LogisticRegression(C=30, max_iter=1000)
    )
    model.fit(train.sources, train.references)
    predictions = {}
    for name, part in parts.items():
        values = model.predict(part.sources)
        texts = [f"{value:.6g}" if is_number else str(value) for value in values]
        predictions[name] = pair_predictions(task, part.rows, texts, part.references)
    return predictions
