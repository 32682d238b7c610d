from jaxtrain.apps.benchmark import sizes, speed
from jaxtrain.models import transformer, zoo


def test_the_bytes_that_a_step_of_decode_must_read():
    arch = zoo.resolve("tinytown-200k,layers=2,width=8,heads=2,ff=16,vocab=10")
    weights = transformer.parameters(arch)
    # Prompt 3, new 3: two steps, at places 3 and 4, on 4 and 5 keys; keys and values of 2 heads of 4 in 2 layers.
    mean_keys = 2 * (4 + 5) / 2
    assert speed.bytes_a_token(arch, 1, 3, 3, 2) == 2 * (weights + 2 * 2 * 4 * mean_keys)
    assert speed.bytes_a_token(arch, 5, 3, 3, 2) == 2 * (weights + 5 * 2 * 2 * 4 * mean_keys)
    windowed = zoo.resolve("tinytown-200k,layers=2,width=8,heads=2,ff=16,vocab=10,window=2,global_every=2")
    assert speed.bytes_a_token(windowed, 1, 3, 3, 2) == 2 * (weights + 2 * 2 * 4 * (2 + (4 + 5) / 2))
    untied = zoo.resolve("tinytown-200k,layers=2,width=8,heads=2,ff=16,vocab=10,tied=false")
    assert speed.bytes_a_token(untied, 1, 3, 3, 2) == speed.bytes_a_token(arch, 1, 3, 3, 2)


def test_sweeps_take_turns():
    lists = {"a": (1, 2, 3), "b": (), "c": (4,)}
    assert list(speed._in_turn(lists)) == [("a", 1), ("c", 4), ("a", 2), ("a", 3)]


def test_settings_are_named_as_flags():
    assert speed.named({}) == "defaults"
    named = speed.named({"remat": "none", "rows": 32, "documents": 5})
    assert named == "--remat=none --batch_size=32 5 documents a row"


def test_a_setting_that_does_not_fit_is_a_record_and_the_next_is_taken(monkeypatch):
    reported = []

    def measured(sizes, task, size, settings, clock):
        return {"error": "RESOURCE_EXHAUSTED"} if not settings else {"tokens_per_s": 1.0}

    monkeypatch.setattr(speed, "measured_step", measured)
    left_out = speed.pretrain(sizes.TINY, "125M", 10, lambda *each: reported.append(each))
    assert left_out == []
    assert [name for name, _ in reported] == ["125M defaults", "125M --remat=full"]


def test_a_sweep_says_what_it_had_no_time_for(monkeypatch):
    now = [0.0]

    def measured(*args):
        now[0] += 6.0
        return {"tokens_per_s": 1.0}

    monkeypatch.setattr(speed, "measured_step", measured)
    monkeypatch.setattr(speed.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(speed, "Clock", lambda seconds: speed.timing.Clock(seconds, lambda: now[0]))
    monkeypatch.setattr(speed, "_decoded", lambda *args: iter(["batch 1"]))
    reported = {}
    missing = speed.sweep(sizes.TINY, 10, reported.__setitem__)
    assert list(reported) == ["125M 3 documents a row"]
    assert missing == [
        "1.3B --logits_limit_mb=1",
        "125M --batch_size=4",
        "decode --scan_layers=true, batch 1",
    ]


def test_decode_is_measured_from_a_prefilled_cache():
    reported = {}
    one = sizes.TINY.decode._replace(batches=(2,))
    changed = sizes.dataclasses.replace(sizes.TINY, decode=one, repeats=1)
    assert speed.decode(changed, 60, reported.__setitem__) == []
    record = reported["batch 2"]
    assert record["step_seconds"]["repeats"] == 1 and record["tokens_per_s"] > 0 and record["rows"] == 2
