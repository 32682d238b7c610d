from jaxtrain.apps.plan.advice import remedies
from tests.apps.plan.modules import stage


def flags(program: str = "train step", **fields) -> str:
    return "\n".join(remedies(stage(**fields), program))


def test_remat_comes_before_rows():
    said = flags(remat="none", batch_size=32).splitlines()
    assert said[0].startswith("--remat=dots") and said[1].startswith("--remat=full")
    assert said[2].startswith("--microbatches=2: of 4 rows of a device 2 at once")
    assert said[3].startswith("--batch_size=16")
    assert flags(remat="dots").startswith("--remat=full")
    assert "--remat" not in flags(remat="full")


def test_microbatches_divide_the_rows_of_a_device():
    assert "--microbatches=3: of 3 rows of a device 1 at" in flags(batch_size=24)
    assert "--microbatches=4: of 4 rows of a device 1 at" in flags(batch_size=32, microbatches=2)
    assert "--microbatches" not in flags(batch_size=8) and "--batch_size=" not in flags(batch_size=8)


def test_copies_of_the_state_go_to_fsdp():
    said = flags(mesh={"data": 4, "fsdp": 2, "tensor": 1}, batch_size=16)
    assert (
        "--mesh=fsdp:-1: parameters and optimizer in 4 times as many parts, 0.38 GiB instead of 1.50" in said
    )
    assert "as many parts" not in flags()


def test_a_single_row_is_split():
    assert "--mesh=fsdp:-1,context:2: a row on 2 devices" in flags(batch_size=8)
    assert "context" not in flags(batch_size=16)
    assert "--mesh=fsdp:-1,tensor:4" in flags(mesh={"data": 1, "fsdp": 4, "tensor": 2})


def test_sampling_has_a_cache():
    said = flags("decode", held={"parameters": 2**30, "KV cache": 2**31})
    assert "the KV cache has 2.00 GiB" in said and "--remat" not in said
    assert "a larger slice than --chip=v5e:2x4" in said
