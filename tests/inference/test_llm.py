"""The interface of language models: usage from several threads, seeds and messages."""

import threading

from jaxtrain.inference import llm


def test_threads_add_up_their_usage():
    usage = llm.Usage()

    def work():
        for _ in range(500):
            usage.add(requests=1, tokens_in=2)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (usage.requests, usage.tokens_in, usage.tokens_out) == (2000, 4000, 0)


def test_seeds_depend_on_every_part_and_are_below_2_to_the_31():
    seeds = {llm.derive_seed(*parts) for parts in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 1))}
    assert len(seeds) == 5 and all(0 <= seed < 2**31 for seed in seeds)
    assert llm.derive_seed(5, 6) == llm.derive_seed(5, 6)


def test_a_user_turn_may_follow_a_system_message():
    assert llm.user_messages("Hi?") == ({"role": "user", "content": "Hi?"},)
    assert [one["role"] for one in llm.user_messages("Hi?", "Be kind.")] == ["system", "user"]


def test_a_model_needs_no_more_than_completions():
    model = llm.LLM(
        "m", lambda requests: [[llm.Completion("x", "stop")] for _ in requests], True, llm.Usage()
    )
    assert model.generate([llm.Request(llm.user_messages("a"))]) == [[llm.Completion("x", "stop")]]
    assert model.local is None and model.embed is None and not model.remote and model.close() is None
