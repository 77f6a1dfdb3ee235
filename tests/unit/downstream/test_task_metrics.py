"""Metrics of tasks against worked examples."""

from __future__ import annotations

import pytest

from pipeline.downstream.task_metrics import label_metrics, rouge_rows, sentences


def test_label_metrics_of_a_worked_example() -> None:
    # 2×2 table: TP 2, FN 1, FP 1, TN 2 → MCC = (2·2 - 1·1) / sqrt(3·3·3·3) = 1/3.
    references = ["a", "a", "a", "b", "b", "b"]
    predictions = ["a", "a", "b", "a", "b", "b"]
    found = label_metrics(["accuracy", "matthews", "macro_f1", "f1"], predictions, references, "a")
    assert found == pytest.approx(
        {"accuracy": 4 / 6, "matthews": 1 / 3, "macro_f1": 4 / 6, "f1": 4 / 6}
    )
    assert all(type(value) is float for value in found.values())


def rouge(prediction: str, reference: str) -> dict[str, float]:
    (found,) = rouge_rows(["rouge1", "rouge2", "rougeL", "rougeLsum"], [prediction], [reference])
    return found


def test_rouge_of_worked_examples() -> None:
    assert rouge("the cats sat", "The cat sat.") == pytest.approx(
        {"rouge1": 100, "rouge2": 100, "rougeL": 100, "rougeLsum": 100}
    )
    # Stemmed, 4 words of 4 and 5 are in common, and 3 bigrams of 3 and 4.
    found = rouge("police kill the gunman", "police killed the gunman today")
    assert found["rouge1"] == pytest.approx(100 * 2 * 1.0 * 0.8 / 1.8)
    assert found["rouge2"] == pytest.approx(100 * 2 * 1.0 * 0.75 / 1.75)
    # Lin (2004): a reversed text has all unigrams in common, but a short common subsequence.
    backwards = rouge("gunman the kill police", "police kill the gunman")
    assert backwards["rouge1"] == pytest.approx(100)
    assert backwards["rougeL"] == pytest.approx(25)


def test_rouge_lsum_takes_sentences_one_by_one() -> None:
    assert sentences('He left. "Why?" she asked!  Nobody\nknew 3.5 things.') == (
        'He left.\n"Why?\nshe asked!\nNobody\nknew 3.5 things.'
    )
    swapped = rouge("The dog barked. The cat sat.", "The cat sat. The dog barked.")
    assert swapped["rougeLsum"] == pytest.approx(100)
    assert swapped["rougeL"] < 60
