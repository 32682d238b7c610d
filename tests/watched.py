"""Which work of a command the watchdog watches."""

import contextlib

from jaxtrain.train import watchdog


@contextlib.contextmanager
def recorded_watchdog(monkeypatch):
    """The folders of the watches that are active, while the watchdog itself is off."""
    active = []

    @contextlib.contextmanager
    def watch(timeout, folder, process=0):
        assert timeout is None and process == 0
        active.append(folder)
        yield
        active.remove(folder)

    with monkeypatch.context() as patch:
        patch.setattr(watchdog, "watch", watch)
        yield active
