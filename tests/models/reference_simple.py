"""SimpleCSSM written out: every frame of every block, the mixer by `step`, nothing left out and nothing clever."""

import jax
import jax.numpy as jnp
from jax import lax

ACT = {"gelu": jax.nn.gelu, "softplus": jax.nn.softplus, "relu": jax.nn.relu, "none": lambda x: x}


def forward(model, config, x):
    """Logits of clips (B, T, H, W, C); of images (B, H, W, C), which stand for seq_len frames, all at time 0."""
    times = jnp.arange(x.shape[1]) if x.ndim == 5 else jnp.zeros(config.seq_len)
    by_block = x.ndim == 4 and config.unroll == "block"
    x = embed(model.stem, config, x if x.ndim == 5 else jnp.repeat(x[:, None], config.seq_len, 1))
    inside = model.stack.blocks[0].mixer.turns_inside  # attention turns its own q and k
    x = turn(x, times) if config.position == "mrope" and not inside else x
    for i, block in enumerate(model.stack.blocks):
        x = jnp.repeat(x[:, -1:], x.shape[1], 1) if by_block and i else x
        if block.downsample is not None:
            x = conv(affine(layer(x), block.downsample.norm), block.downsample.conv, block.stride)
        x = normalise(block.norm, config.norm, ACT[config.act](x) if i else x)
        x = x + scaled(by_step(block.mixer, x), block.layer_scale)
        if block.mlp is not None:
            hidden = dense(affine(layer(x), block.mlp_norm), block.mlp.up)
            hidden = hidden * (1 + lax.erf(hidden / 2**0.5)) / 2
            x = x + scaled(dense(hidden, block.mlp.down), block.mlp_layer_scale)
    x = {"last": x[:, -1:], "mean": x.mean(1, keepdims=True), "all": x}[config.readout]
    places = x.reshape(x.shape[0], -1, x.shape[-1])
    x = jnp.sort(places, 1)[:, -1] if config.pool == "max" else places.mean(1)
    return dense(affine(layer(x), model.head.norm), model.head.head)


def embed(stem, config, x):
    if config.stem in ("pixel", "patch"):
        return ACT[config.act](conv(x, stem.conv, config.patch_size or 1))
    for kernel, norm in zip(stem.convs, stem.norms, strict=True):
        x = affine(layer(ACT[config.act](conv(x, kernel))), norm.affine)
        frames = x.reshape(-1, *x.shape[2:])
        frames = lax.reduce_window(frames, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
        x = frames.reshape(*x.shape[:2], *frames.shape[1:])
    return x


def conv(x, module, stride=1):
    frames, kernel = x.reshape(-1, *x.shape[2:]), module.kernel[...]
    form = lax.conv_dimension_numbers(frames.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
    y = lax.conv_general_dilated(frames, kernel, (stride, stride), "SAME", dimension_numbers=form)
    return y.reshape(*x.shape[:2], *y.shape[1:]) + module.bias[...]


def turn(x, times):
    """As complex numbers, pair by pair: x_{2j} + i x_{2j+1} times exp(i place f_j)."""
    pairs = x.shape[-1] // 2
    places = [times[:, None, None], jnp.arange(x.shape[2])[:, None], jnp.arange(x.shape[3])]
    axis = [0] * (pairs // 3) + [1] * (pairs // 3) + [2] * (pairs - 2 * (pairs // 3))
    angles = [places[a] * 10000.0 ** (-j / pairs) for j, a in enumerate(axis)]
    angles = jnp.stack([jnp.broadcast_to(a, x.shape[1:4]) for a in angles], -1)
    z = (x[..., 0::2] + 1j * x[..., 1::2]) * jnp.exp(1j * angles)
    return jnp.stack([z.real, z.imag], -1).reshape(x.shape)


def layer(x, axes=(-1,)):
    return (x - x.mean(axes, keepdims=True)) / jnp.sqrt(x.var(axes, keepdims=True) + 1e-6)


def normalise(norm, name, x):
    everything = (1, 2, 3, 4)
    if name == "none":
        return x
    if name == "global_layer_causal":
        x = jnp.concatenate([layer(x[:, : t + 1], everything)[:, -1:] for t in range(x.shape[1])], 1)
    else:
        x = layer(x, {"layer": (-1,), "global_layer": everything}[name])
    return affine(x, norm.affine)


def affine(x, module):
    return x * module.scale[...] + module.bias[...]


def dense(x, module):
    return x @ module.kernel[...] + module.bias[...]


def scaled(x, scale):
    return x if scale is None else x * scale[...]


def by_step(mixer, x):
    """Frame by frame where the mixer is recurrent."""
    if not mixer.recurrent:
        return mixer(x)
    state = mixer.init_state(x.shape[0], x.shape[2:4])
    return jnp.moveaxis(lax.scan(mixer.step, state, jnp.moveaxis(x, 1, 0))[1], 0, 1)
