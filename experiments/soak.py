"""Faults on purpose: commands are killed, files damaged, disks filled, and results compared with undisturbed runs."""

from jaxtrain import flags
from jaxtrain.apps.soak.config import Soak
from jaxtrain.config import Failure


def main(cfg: Soak) -> None:
    """Attacks every command for --minutes, and ends with the table; exit status 1 where anything did not hold."""
    from jaxtrain.apps.soak import campaign, run

    campaign.check(cfg.soak)

    if not run.run(cfg.soak):
        raise Failure("not everything held: the table says how to repeat it, and failed/ has what was left")


if __name__ == "__main__":
    flags.launch(Soak, main, "./launch/soak")
