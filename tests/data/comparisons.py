"""Comparisons that the tests of preference data share."""

import numpy as np

from jaxtrain.data import preferences
from jaxtrain.data.chat import load_template
from jaxtrain.data.tokenizer import ByteTokenizer
from tests.data.talk import said

KIND = ByteTokenizer()


def better(prompt, chosen, rejected, **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def prepare(cfg, *, template="plain", seed=0, local_rows=np.arange, **options):
    given = {"seed": seed, "tokenizer": KIND, "template": load_template(template, KIND)}
    return preferences.prepare(cfg, **given, local_rows=local_rows, **options)


def said_of(made, side="train"):
    return "; ".join(value for name, value in made.table if name.startswith(side))


def texts(row):
    """(the whole text, what is in the loss) of each alternative that is there."""
    found = []
    for j in range(len(row["length"])):
        n, inside = row["length"][j], row["mask"][j] > 0
        assert (row["segments"][j] == (np.arange(len(inside)) < n)).all()
        assert (row["positions"][j] == np.where(row["segments"][j] > 0, np.arange(len(inside)), 0)).all()
        assert (row["targets"][j, : n - 1] == row["tokens"][j, 1:n]).all() if n else not inside.any()
        if n:
            found.append((said(KIND, row["tokens"][j, :n]), said(KIND, row["targets"][j][inside])))
    return found
