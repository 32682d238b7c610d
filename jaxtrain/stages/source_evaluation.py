"""Held-out bits per byte of each source of --data or --eval_data, beside those of all."""

from jaxtrain.data.pipeline import Batch, DataPipeline, Stream
from jaxtrain.stages import trainer
from jaxtrain.stages.session import Session
from jaxtrain.train import loop
from jaxtrain.types import Objective, TrainState

MEASURE = "bits_per_byte"


class _Switched:
    """Batches of the stream that is set: the program of an evaluation is compiled once for all streams."""

    def __init__(self, stream: Stream):
        self.stream = stream

    def __len__(self) -> int:
        return len(self.stream)

    def batch(self, i: int) -> Batch:
        return self.stream.batch(i)


def evaluate_fn(session: Session, objective: Objective, data: DataPipeline, most: int) -> loop.Evaluate:
    """An evaluation over the held-out data (trainer.evaluate_fn), and with several sources over each of them.

    At most `most` batches of each (0: all): a source with a small share of the data is measured as well as the others.
    """
    batches = _Switched(data.eval)
    evaluate = trainer.evaluate_fn(session, objective, batches, most)

    def means(state: TrainState) -> dict[str, float]:
        numbers, by_source = dict(evaluate(state)), {}
        several = len(data.eval_by_source) > 1
        for name, batches.stream in data.eval_by_source.items() if several else ():
            found = evaluate(state)
            if MEASURE in found:  # not where the first batches count nothing
                by_source[f"{MEASURE}/{name}"] = found[MEASURE]
        batches.stream = data.eval
        return numbers | by_source

    return means
