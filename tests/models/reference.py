"""The decoder written again in float64 NumPy, one token row at a time, from the papers' formulas."""

import math

import numpy as np


def _norm(x, p, arch):
    if arch.norm == "layer":
        x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + arch.norm_eps)
    return x * (p["scale"] + arch.norm_offset) + p.get("bias", 0.0)


def _rms(x, p, arch):
    """Of a head, or of all heads of a token at once, x [T, H, C]."""
    over = (-2, -1) if arch.qk_norm_joint else -1
    return x / np.sqrt((x**2).mean(over, keepdims=True) + arch.norm_eps) * (p["scale"] + arch.norm_offset)


def _gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _gelu_erf(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def _clamped(gate, up):
    gate, up = np.minimum(gate, 7.0), np.clip(up, -7.0, 7.0)
    return gate / (1 + np.exp(-1.702 * gate)) * (up + 1)


def _frequencies(arch, theta, scaled, length):
    freq = np.array([theta ** (-2 * i / arch.R) for i in range(arch.R // 2)])
    if not scaled or not arch.rope_scaling:
        return freq
    if arch.rope_factors:
        half = arch.R // 2
        return freq / (
            arch.rope_factors[half:] if length > arch.rope_scaling[0] else arch.rope_factors[:half]
        )
    if len(arch.rope_scaling) == 1:
        return freq / arch.rope_scaling[0]
    if len(arch.rope_scaling) == 2:
        factor, original = arch.rope_scaling
        base = theta * (factor * max(length, original) / original - (factor - 1)) ** (arch.R / (arch.R - 2))
        return np.array([base ** (-2 * i / arch.R) for i in range(arch.R // 2)])
    if len(arch.rope_scaling) == 6:
        return _yarn(freq, theta, *arch.rope_scaling)
    factor, low, high, original = arch.rope_scaling
    out = []
    for f in freq:
        wavelength = 2 * np.pi / f
        if wavelength < original / high:
            out.append(f)
        elif wavelength > original / low:
            out.append(f / factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            out.append((1 - smooth) * f / factor + smooth * f)
    return np.array(out)


def _yarn(freq, theta, factor, fast, slow, original, attention, truncate):
    """The first dimension that is divided at all is where a wave turns `fast` times in the original length."""
    width = 2 * len(freq)
    first, last = (
        width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta)) for turns in (fast, slow)
    )
    if truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    share = [min(max((i - first) / (last - first), 0.0), 1.0) for i in range(len(freq))]
    return np.array([(1 - s) * f + s * f / factor for s, f in zip(share, freq, strict=True)])


def _rotate(x, positions, freq, attention):
    """Each pair (i, i + R/2) turned by position * freq_i and scaled, as a complex product; the rest as it is."""
    half = len(freq)
    turned = (x[..., :half] + 1j * x[..., half : 2 * half]) * np.exp(1j * positions[:, None, None] * freq)
    return np.concatenate([attention * turned.real, attention * turned.imag, x[..., 2 * half :]], -1)


def _attention(x, p, arch, positions, segments, window):
    project = {n: np.einsum("td,dhc->thc", x, p[n]["kernel"]) + p[n].get("bias", 0.0) for n in "qkv"}
    q, k, v = project["q"], project["k"], project["v"]
    if arch.qk_norm:
        q, k = _rms(q, p["q_norm"], arch), _rms(k, p["k_norm"], arch)
    if arch.positions == "rope":
        local = bool(window) and arch.rope_theta_local
        freq = _frequencies(arch, arch.rope_theta_local if local else arch.rope_theta, not local, len(x))
        attention = 1.0
        if arch.rope_factors or len(arch.rope_scaling) == 6:
            attention = arch.rope_scaling[1 if arch.rope_factors else 4]
        q, k = (_rotate(x, positions, freq, 1.0 if local else attention) for x in (q, k))
    T, H, group = len(x), arch.heads, arch.heads // arch.K
    out = np.zeros((T, H, arch.C))
    for t in range(T):
        for h in range(H):
            seen = [
                s
                for s in range(T)
                if segments[s] == segments[t]
                and (s <= t or not arch.causal)
                and (not window or abs(t - s) < window)
            ]
            scores = np.array([q[t, h] @ k[s, h // group] for s in seen]) / np.sqrt(
                arch.query_scale or arch.C
            )
            if arch.attn_softcap:
                scores = arch.attn_softcap * np.tanh(scores / arch.attn_softcap)
            top = scores.max()
            weights = np.exp(scores - top)
            sink = np.exp(p["sinks"][h] - top) if arch.attn_sinks else 0.0
            out[t, h] = (weights / (weights.sum() + sink)) @ v[seen, h // group]
    return np.einsum("thc,hcd->td", out, p["out"]["kernel"]) + p["out"].get("bias", 0.0)


def _mlp(x, p, arch, segments=None):
    up = x @ p["up"]["kernel"] + p["up"].get("bias", 0.0)
    if arch.mlp.startswith("gelu"):
        h = _gelu_erf(up) if arch.mlp == "gelu_erf" else _gelu(up)
    else:
        gate = x @ p["gate"]["kernel"] + p["gate"].get("bias", 0.0)
        h = (
            _clamped(gate, up)
            if arch.mlp == "clamped_swiglu"
            else (_gelu(gate) if arch.mlp == "geglu" else gate / (1 + np.exp(-gate))) * up
        )
    return h @ p["down"]["kernel"] + p["down"].get("bias", 0.0)


def _experts(x, p, arch, segments):
    """Token by token: the k likeliest experts, each weighed by its probability, and the shared one. None of padding."""
    scores = x @ p["router"]["kernel"] + p["router"].get("bias", 0.0)
    out = np.zeros_like(x)
    for t, row in enumerate(scores):
        chosen = np.argsort(-row)[: arch.experts_per_token if segments[t] else 0]
        weights = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        for e in chosen:
            share = weights[e] / (weights[chosen].sum() if arch.norm_topk else 1.0)
            own = {name: _layer(p[name], e) for name in ("gate", "up", "down") if name in p}
            out[t] += share * _mlp(x[t], own, arch)
    return out + _mlp(x, p["shared"], arch) if arch.shared_experts else out


def _layer(tree, i):
    return {k: _layer(v, i) if isinstance(v, dict) else v[i] for k, v in tree.items()}


def logits(arch, params, tokens, positions, segments):
    """float64[T, V] of one row, params as float64 arrays."""
    x = params["embed"][tokens]
    if arch.embed_scale:
        x = x * np.sqrt(arch.width)
    if arch.positions == "learned":
        x = x + params["positions"][positions]
    feed = _experts if arch.experts else _mlp
    for i, window in enumerate(arch.windows()):
        p = _layer(params["layers"], i)

        def norm(name, x, p=p):
            return _norm(x, p[name], arch) if name in p else x

        mixed = _attention(norm("attention_norm", x), p["attention"], arch, positions, segments, window)
        mixed = norm("attention_post_norm", mixed)
        read = norm("mlp_norm", x if arch.parallel else x + mixed)
        x = x + mixed + norm("mlp_post_norm", feed(read, p["mlp"], arch, segments))
    out = _norm(x, params["norm"], arch) @ params["embed" if arch.tied else "unembed"].T
    return arch.logit_softcap * np.tanh(out / arch.logit_softcap) if arch.logit_softcap else out
