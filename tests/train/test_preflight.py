import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain import config
from jaxtrain.train import parallel, preflight
from jaxtrain.train.step import init_state

LETTERS = "\0" + "abcdefghijklmnopqrstuvwxyz \n"


def decode(ids):
    return "".join(LETTERS[i] for i in ids if i)


def row(*documents, masked=(), size=0):
    """A batch of one row: documents as text, each ended by token 0; `masked` are positions outside the loss."""
    ids = [[LETTERS.index(c) for c in text] + [0] for text in documents]
    targets = [each for some in ids for each in some]
    segments = [i for i, each in enumerate(ids, 1) for _ in each]
    pad = max(0, size - len(targets))
    mask = np.array([i not in masked for i in range(len(targets))] + [False] * pad, np.float32)
    return {
        "targets": np.array([targets + [0] * pad], np.int32),
        "segments": np.array([segments + [0] * pad], np.int32),
        "mask": mask[None],
    }


def test_documents_stand_apart_and_what_is_not_in_the_loss_is_marked():
    shown = preflight.first_rows(row("one", "two\nlines", masked={4, 5}, size=20), decode)
    assert shown == ["  row 0: 12 of 20 positions are in the loss", "    one", "    ⟨tw⟩o", "    lines"]


def test_a_target_without_text_outside_the_loss_is_counted():
    assert preflight.first_rows(row("ab", masked={2}), decode)[1] == "    ab⟨1⟩"


def test_rows_fit_a_terminal_and_what_is_left_out_is_counted():
    text = "abc defgh " * 60
    shown = preflight.first_rows(row(text.strip()), decode)
    assert max(map(len, shown)) <= 80
    left = int(shown[-1].split()[2])
    assert len("".join(line.strip() for line in shown[1:-1]).replace(" ", "")) > 300
    assert left == len(text.strip()) - preflight.SHOWN
    assert len(preflight.first_rows({k: np.repeat(x, 5, 0) for k, x in row("ab").items()}, decode)) == 4


def test_sizes_by_hand():
    import optax

    plan = parallel.make(config.Run(parallel="mesh", mesh="fsdp:8"))
    tx = optax.adam(1e-3)

    def make():
        params = {"w": {"kernel": jnp.ones((4096, 256))}, "b": jnp.ones(3)}
        return init_state(params, tx, jax.random.key(0))

    state = plan.abstract(make, {("w", "kernel"): ("embed", None)})
    told = dict(preflight.memory(state, {"tokens": np.zeros((8, 2**15), np.int32)}))
    assert told["parameters"] == f"{2**20 + 3:,}"
    # Parameters and two moments in f32: 12 MiB, of which each of eight devices has an eighth.
    assert told["training state"] == "12.0 MiB, 1.5 MiB on each device"
    assert told["batch"] == "1.00 MiB on this host"
