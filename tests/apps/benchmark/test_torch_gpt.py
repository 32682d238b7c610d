"""The baseline does the same work: its parameters are as many, and its cached decode is its forward pass."""

import pytest

from jaxtrain.models import transformer, zoo

torch = pytest.importorskip("torch")
ARCH = zoo.resolve("gpt2,layers=2,width=32,heads=2,ff=64,vocab=48,max_len=24")


@pytest.fixture(scope="module")
def model():
    from jaxtrain.apps.benchmark.torch_gpt import Gpt

    torch.manual_seed(0)
    return Gpt(ARCH).requires_grad_(False)


def test_parameters_are_as_many(model):
    assert sum(p.numel() for p in model.parameters()) == transformer.parameters(ARCH)


def test_decode_samples_from_what_the_forward_pass_gives(model):
    ids = torch.randint(0, 48, (3, 10))
    wanted = []
    original, model.loss = model.loss, lambda x, targets: wanted.append(model.norm(x) @ model.embed.weight.T)
    model(ids, None)
    model.loss = original
    caches = torch.zeros(2, 2, 3, 2, 16, 16)
    got, plain = [], torch.nn.functional.linear

    def linear(x, weight, bias=None):
        out = plain(x, weight, bias)
        if weight is model.embed.weight:
            got.append(out)
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxtrain.apps.benchmark.torch_gpt.F.linear", linear)
        model.decode(ids[:, :6], torch.arange(6), caches)
        for t in range(6, 10):
            token = model.decode(ids[:, t : t + 1], torch.tensor([t]), caches)
    assert token.shape == (3, 1) and token.dtype == torch.int64 and ((token >= 0) & (token < 48)).all()
    for t, out in zip((5, 6, 7, 8, 9), got, strict=True):
        torch.testing.assert_close(out, wanted[0][:, t], atol=1e-5, rtol=1e-4)


def test_samples_follow_the_probabilities(model):
    caches = torch.zeros(2, 2, 4000, 2, 8, 16)
    torch.manual_seed(1)
    tokens = model.decode(torch.full((4000, 1), 7), torch.tensor([0]), caches)
    wanted = []
    original, model.loss = model.loss, lambda x, targets: wanted.append(model.norm(x) @ model.embed.weight.T)
    model(torch.tensor([[7]]), None)
    model.loss = original
    share = torch.bincount(tokens.flatten(), minlength=48) / 4000
    assert (share - wanted[0][0, 0].softmax(-1)).abs().max() < 0.015


def test_another_architecture_is_refused():
    from jaxtrain.apps.benchmark.torch_gpt import Gpt

    with pytest.raises(ValueError, match="GPT-2"):
        Gpt(zoo.resolve("tinytown-200k,vocab=64"))
