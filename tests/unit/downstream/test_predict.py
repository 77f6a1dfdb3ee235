"""Label scoring against brute force; predictions do not depend on the order of the rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, BartConfig, BartForConditionalGeneration

from pipeline.downstream.batches import EncodedSource
from pipeline.downstream.encode import encode, encode_labels
from pipeline.downstream.predict import classify, generate, length_sorted_batches, score_labels
from pipeline.downstream.tasks import Examples, TaskData
from pipeline.downstream.timing import BATCH, TimedWork, measurement, time_model
from pipeline.errors import DataError
from pipeline.models import ModelDirectory
from pipeline.models.counts import block_counts, parameter_counts
from pipeline.models.directory import load_tokenizer
from pipeline.recipe import Task
from tests.tiny_t5 import save_tiny_t5


@pytest.fixture(scope="module")
def documents(wiki_jsonl: Path) -> list[dict[str, str]]:
    """Return 300 rows from all over the file, which is sorted by topic."""
    lines = wiki_jsonl.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:: len(lines) // 300]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, documents: list[dict[str, str]]) -> Path:
    return save_tiny_t5(
        tmp_path_factory.mktemp("model") / "tiny", [d["extract"] for d in documents]
    )


def task_data(documents: list[dict[str, str]], **settings: Any) -> TaskData:
    task = Task(
        name="topic",
        kind="classification",
        train="-",
        test="-",
        source="{extract}",
        target="{topic}",
        **settings,
    )
    topics = [d["topic"] for d in documents]
    examples = Examples(
        "-", [d["extract"] for d in documents], topics, list(topics), list(range(len(documents)))
    )
    return TaskData(task, examples, examples, examples, {}, sorted(set(topics)))


@pytest.fixture(scope="module")
def model(tiny: Path) -> Any:
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny).eval()
    torch.manual_seed(1)
    # A fresh T5 is nearly uniform: nothing would depend on the source.
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def brute_force(model: Any, source: list[int], label: list[int]) -> float:
    """Return the log-likelihood from one plain forward pass over an unpadded pair."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([source]), labels=torch.tensor([label])).logits[0]
    return float(logits.log_softmax(-1).gather(-1, torch.tensor(label)[:, None]).sum())


def test_label_scores_equal_plain_forward_passes(
    model: Any, tiny: Path, documents: list[dict[str, str]]
) -> None:
    data = task_data(documents[:280:7], source_length=48)
    tokenizer = load_tokenizer(tiny)
    sources = encode(tokenizer, data.test, data.task).sources
    labels = encode_labels(tokenizer, data)
    assert len({len(label) for label in labels}) > 1, (
        "labels of one length would not test the padding"
    )
    likeliest = classify(model, sources, labels, pad_token_id=0, batch_size=16)
    for index in range(0, 40, 5):
        wanted = [brute_force(model, sources[index], label) for label in labels]
        assert likeliest[index] == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    batch = sources[:6]
    longest = max(map(len, batch))
    inputs = torch.tensor([s + [0] * (longest - len(s)) for s in batch])
    scores = score_labels(model, inputs, (inputs != 0).long(), labels)
    wanted_scores = torch.tensor(
        [[brute_force(model, s, label) for label in labels] for s in batch]
    )
    torch.testing.assert_close(scores, wanted_scores, rtol=1e-4, atol=1e-4)


def test_label_scores_of_bart_equal_plain_forward_passes() -> None:
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=60, d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, dropout=0.0,
        max_position_embeddings=32,
    )  # fmt: skip
    bart = BartForConditionalGeneration(config).eval()
    for parameter in bart.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    labels = [[0, 5, 6, 2], [0, 7, 2], [0, 5, 9, 11, 2]]
    inputs = torch.tensor([[0, 8, 9, 10, 2], [0, 12, 13, 2, 1]])
    scores = score_labels(bart, inputs, (inputs != 1).long(), labels)
    wanted = [
        [brute_force(bart, s, label) for label in labels]
        for s in ([0, 8, 9, 10, 2], [0, 12, 13, 2])
    ]
    torch.testing.assert_close(scores, torch.tensor(wanted), rtol=1e-4, atol=1e-4)


def test_predictions_do_not_depend_on_row_order_or_ranks(
    model: Any, tiny: Path, documents: list[dict[str, str]]
) -> None:
    data = task_data(documents[:300:6], source_length=64)
    tokenizer = load_tokenizer(tiny)
    sources = encode(tokenizer, data.test, data.task).sources
    labels = encode_labels(tokenizer, data)
    order = torch.randperm(len(sources), generator=torch.Generator().manual_seed(3)).tolist()
    shuffled = [sources[i] for i in order]

    straight = generate(model, tokenizer, sources, max_new_tokens=8, batch_size=7)
    assert len(set(straight.values())) > 1
    again = generate(model, tokenizer, shuffled, max_new_tokens=8, batch_size=7)
    assert [again[place] for place in range(len(order))] == [straight[i] for i in order]

    labelled = classify(model, sources, labels, pad_token_id=0, batch_size=7)
    parts = [
        classify(model, shuffled, labels, pad_token_id=0, batch_size=7, part=(rank, 3))
        for rank in range(3)
    ]
    joined = parts[0] | parts[1] | parts[2]
    assert len(joined) == len(order)
    assert [joined[place] for place in range(len(order))] == [labelled[i] for i in order]


def test_the_number_of_beams_reaches_generation(
    model: Any, tiny: Path, documents: list[dict[str, str]]
) -> None:
    data = task_data(documents[::20], source_length=48)
    tokenizer = load_tokenizer(tiny)
    sources = encode(tokenizer, data.test, data.task).sources
    greedy = generate(model, tokenizer, sources, max_new_tokens=3)
    beams = generate(model, tokenizer, sources, max_new_tokens=3, beams=16)
    assert any(greedy[i] != beams[i] for i in greedy), (
        "beams change nothing: the setting does not arrive"
    )


def test_long_texts_are_cut_counted_and_keep_their_end(
    tiny: Path, documents: list[dict[str, str]]
) -> None:
    data = task_data(documents[:30], source_length=20, target_length=16)
    tokenizer = load_tokenizer(tiny)
    encoded = encode(tokenizer, data.test, data.task)
    whole = tokenizer(data.test.sources, verbose=False)["input_ids"]
    assert encoded.cut_sources == sum(len(ids) > 20 for ids in whole) > 0
    assert max(map(len, encoded.sources)) == 20
    assert all(ids[-1] == tokenizer.eos_token_id for ids in encoded.sources)

    source = EncodedSource(encoded, tokenizer.pad_token_id)
    batch = source.read([(0, 4), (0, 0)])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 24)
    length = int(batch["attention_mask"][0].sum())
    assert batch["input_ids"][0, :length].tolist() == encoded.sources[4]
    assert batch["labels"][1, : len(encoded.targets[0])].tolist() == encoded.targets[0]
    assert (batch["labels"][1, len(encoded.targets[0]) :] == -100).all()


def test_labels_a_tokenizer_cannot_tell_apart_are_refused(
    tiny: Path, documents: list[dict[str, str]]
) -> None:
    data = task_data(documents[:10], target_length=8)
    same = TaskData(
        data.task,
        data.train,
        data.validation,
        data.test,
        {},
        ["a very long label text number one", "a very long label text number two"],
    )
    with pytest.raises(DataError, match="same 8 tokens"):
        encode_labels(load_tokenizer(tiny), same)


def test_batches_hold_every_index_once_longest_first() -> None:
    batches = length_sorted_batches([[1], [1, 2, 3], [1, 2], [0]], 3)
    assert batches == [[1, 2, 3], [0]]


@pytest.mark.parametrize("labels", [None, [[5, 1], [6, 7, 1]]])
def test_models_are_timed_alone_and_in_batches(model: Any, labels: list[list[int]] | None) -> None:
    work = TimedWork([[5, 6, 7, 1], [8, 1]], labels, pad_token_id=0, new_tokens=5)
    found = [
        measurement(setting, times, work, "a")
        for setting, times in time_model(model, work, repeats=2).items()
    ]
    assert [(line["device"], line["batch_size"], line["repeats"]) for line in found] == [
        ("cpu", 1, 2),
        ("cpu", BATCH, 2),
    ]
    for line in found:
        assert line["source_tokens"] == 4
        assert line["rows_per_second"] == pytest.approx(
            1000 * line["batch_size"] / line["milliseconds"], rel=1e-2
        )
        assert (line["tokens_per_second"] is None) == (labels is not None)
    # A batch takes less time than its rows alone; the factor allows for noise of the machine.
    assert found[1]["quickest"] < 2 * BATCH * found[0]["slowest"]


def test_shape_is_read_from_the_files_alone(tiny: Path, model: Any) -> None:
    directory = ModelDirectory("tiny", tiny)
    assert block_counts(directory) == (3, 2)
    counts = parameter_counts(directory)
    assert counts.total == sum(p.numel() for p in model.parameters())
    assert counts.embeddings == model.shared.weight.numel()


def test_shape_counts_an_untied_head_and_tied_copies_once(tiny: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(tiny / "model.safetensors")
    tied = parameter_counts(ModelDirectory("tied", tiny))
    weights["lm_head.weight"] = weights["shared.weight"] * 2  # as T5 v1.1
    weights["encoder.embed_tokens.weight"] = weights[
        "shared.weight"
    ].clone()  # as some published T5 v1.0
    (tmp_path / "config.json").write_text((tiny / "config.json").read_text())
    save_file(weights, tmp_path / "model.safetensors")
    untied = parameter_counts(ModelDirectory("untied", tmp_path))
    assert untied.total == tied.total + tied.embeddings
    assert untied.embeddings == 2 * tied.embeddings
