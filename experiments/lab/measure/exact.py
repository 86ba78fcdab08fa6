"""Exact answers to the questions of a task, by the length of the question (data/tasks.py).

The whole answer counts, END with it, or all answers where there are several; a sample is read in one pass, which is
right wherever greedy decoding is, at positions 0, 1, …
"""

from pathlib import Path

from conf.base import BadInput, Settings
from experiments.lab.measure.readings import cached_reading
from experiments.lab.measure.subject import open_subject

BATCH_TOKENS = 8192


class Exact(Settings):
    """The settings of the measurement: none."""


def measure_exact(checkpoint: Path, cache: str) -> dict:
    """Measure, or read back, which samples of the test split a checkpoint answers exactly.

    Returns:
        What every reading has, and "ranges": for each range of lengths {"low", "high": of questions, "lengths": the
        length of each question, "exact": 1 or 0 for each}.

    Raises:
        BadInput: the checkpoint was not trained on a task, or cannot read so far.
    """

    def measured(model, config, corpus, device) -> dict:
        return {"ranges": read_ranges(model, corpus, **device)}

    subject = open_subject(checkpoint, None, cache)
    if subject.corpus.task is None:
        raise BadInput(f"checkpoint={checkpoint} was trained on data={subject.corpus.name}, which is no task")
    return cached_reading("tasks", subject, Exact(), "exact", ("test",), measured)[0]


def read_ranges(model, corpus, device: str, precision: str) -> list[dict]:
    """Answer the samples of the test split; rows as of `measure_exact`."""
    import torch

    from data.tasks import lengths_of, question_length

    model.eval()
    task, documents, ranges = corpus.task, corpus.split("test"), []
    count = task.documents.test
    for place, high in enumerate(task.lengths):
        numbers = range(place * count, (place + 1) * count)
        lengths = [question_length(task, documents[number]) for number in numbers]
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            exact = _answer(model, corpus, numbers, device)
        ranges.append({"low": lengths_of(task, place)[0], "high": high, "lengths": lengths, "exact": exact})
    return ranges


def _answer(model, corpus, numbers: range, device: str) -> list[int]:
    """Whether each of these documents of the test split is answered exactly, 1 or 0; those about as long together."""
    from data.tasks import answered
    from data.windows import sample_rows
    from models.language_model import exact_rows

    documents, exact = corpus.split("test"), {}
    order = sorted(numbers, key=lambda number: len(documents[number]))
    rows = max(1, BATCH_TOKENS // len(documents[order[-1]]))
    for start in range(0, len(order), rows):
        some = order[start : start + rows]
        batch = sample_rows(documents, some, len(documents[some[-1]]) - 1, corpus.separator).to(device)
        right = exact_rows(model(batch[:, :-1]), batch[:, 1:], answered(corpus.task, batch))
        exact |= dict(zip(some, right.int().tolist(), strict=True))
    return [exact[number] for number in numbers]


def tokens_read(task) -> dict[int, int]:
    """Tokens of the test split by the longest sample of each range, about, to price a reading."""
    from data.tasks import longest_document

    return {
        longest_document(task, place): task.documents.test * longest_document(task, place)
        for place in range(len(task.lengths))
    }
