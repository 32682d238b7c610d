"""The decoder written again in float64 NumPy, one token row at a time, from the papers' formulas."""

import numpy as np


def _norm(x, p, arch):
    if arch.norm == "layer":
        x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + arch.norm_eps)
    return x * (p["scale"] + arch.norm_offset) + p.get("bias", 0.0)


def _rms(x, p, arch):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + arch.norm_eps) * (p["scale"] + arch.norm_offset)


def _gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _frequencies(arch, theta, scaled):
    freq = np.array([theta ** (-2 * i / arch.C) for i in range(arch.C // 2)])
    if not scaled or not arch.rope_scaling:
        return freq
    if len(arch.rope_scaling) == 1:
        return freq / arch.rope_scaling[0]
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


def _rotate(x, positions, freq):
    """Each pair (i, i + C/2) turned by position * freq_i, as a complex product."""
    half = x.shape[-1] // 2
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * positions[:, None, None] * freq)
    return np.concatenate([turned.real, turned.imag], -1)


def _attention(x, p, arch, positions, segments, window):
    project = {n: np.einsum("td,dhc->thc", x, p[n]["kernel"]) + p[n].get("bias", 0.0) for n in "qkv"}
    q, k, v = project["q"], project["k"], project["v"]
    if arch.qk_norm:
        q, k = _rms(q, p["q_norm"], arch), _rms(k, p["k_norm"], arch)
    if arch.positions == "rope":
        local = bool(window) and arch.rope_theta_local
        freq = _frequencies(arch, arch.rope_theta_local if local else arch.rope_theta, not local)
        q, k = _rotate(q, positions, freq), _rotate(k, positions, freq)
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
            weights = np.exp(scores - scores.max())
            out[t, h] = (weights / weights.sum()) @ v[seen, h // group]
    return np.einsum("thc,hcd->td", out, p["out"]["kernel"]) + p["out"].get("bias", 0.0)


def _mlp(x, p, arch):
    up = x @ p["up"]["kernel"] + p["up"].get("bias", 0.0)
    if arch.mlp == "gelu":
        h = _gelu(up)
    else:
        gate = x @ p["gate"]["kernel"]
        h = (_gelu(gate) if arch.mlp == "geglu" else gate / (1 + np.exp(-gate))) * up
    return h @ p["down"]["kernel"] + p["down"].get("bias", 0.0)


def _layer(tree, i):
    return {k: _layer(v, i) if isinstance(v, dict) else v[i] for k, v in tree.items()}


def logits(arch, params, tokens, positions, segments):
    """float64[T, V] of one row, params as float64 arrays."""
    x = params["embed"][tokens]
    if arch.embed_scale:
        x = x * np.sqrt(arch.width)
    if arch.positions == "learned":
        x = x + params["positions"][positions]
    for i, window in enumerate(arch.windows()):
        p = _layer(params["layers"], i)
        h = _attention(_norm(x, p["attention_norm"], arch), p["attention"], arch, positions, segments, window)
        x = x + (_norm(h, p["attention_post_norm"], arch) if arch.post_norms else h)
        h = _mlp(_norm(x, p["mlp_norm"], arch), p["mlp"], arch)
        x = x + (_norm(h, p["mlp_post_norm"], arch) if arch.post_norms else h)
    out = _norm(x, params["norm"], arch) @ params["embed" if arch.tied else "unembed"].T
    return arch.logit_softcap * np.tanh(out / arch.logit_softcap) if arch.logit_softcap else out
