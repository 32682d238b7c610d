"""The interface of language models: usage from several threads, seeds and messages."""

import threading

from jaxtrain.inference import llm
from jaxtrain.inference.llm import CUT_OFF, Completion, TokenLogprob, Usage, completion_of


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


def tokens(*texts):
    return tuple(TokenLogprob(text, -1.0, ()) for text in texts)


def test_a_completion_is_the_answer_apart_from_its_thought():
    whole = tokens("<think>", "A", "</think>", "\n\n", "A", "!")
    one = completion_of("<think>A</think>\n\nA!", "stop", whole)
    assert (one.text, one.thought, [t.token for t in one.logprobs]) == ("A!", "A", ["A", "!"])
    assert one.message() == {"role": "assistant", "content": "A!", "reasoning_content": "A"}
    opened = completion_of("hm</think> A!", "stop", tokens("hm", "</think>", " A", "!"), opened=True)
    assert (opened.text, opened.thought, [t.token for t in opened.logprobs]) == ("A!", "hm", [" A", "!"])
    plain = completion_of(" A! ", "stop", tokens(" A", "!", " "))
    assert plain == Completion(" A! ", "stop", tokens(" A", "!", " ")) and plain.message()["content"] == "A!"
    assert completion_of("<think>A</think>", "stop", raw=True).thought == ""
    assert completion_of("<think>A", CUT_OFF, tokens("<think>", "A")).logprobs == ()


def test_changes_of_requests_are_recorded_once():
    usage = Usage()
    assert usage.add_change("seed", "no seed") and not usage.add_change("seed", "another line")
    assert usage.change_lines() == ["no seed"]


def test_a_request_counts_once_for_its_batch():
    usage = Usage(requests=3)
    assert usage.start_batch("run:0")["requests"] == 3
    assert usage.is_first("a", "run:0") and not usage.is_first("a", "run:0")
    assert not usage.is_first("b", "another:0") and not usage.is_first("b", "")
    usage.start_batch("run:1")
    assert not usage.is_first("a", "run:0") and usage.is_first("c", "run:1")
    assert usage.counts() == {
        "requests": 3, "cached": 0, "repeated": 0, "refused": 0, "tokens_in": 0, "tokens_out": 0, "uncounted": 0,
    }  # fmt: skip
