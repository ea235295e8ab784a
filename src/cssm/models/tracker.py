"""Tracker: where points of the first frame are in every later one, by a belief for each, in parallel or frame by frame.

A frame becomes features at strides 4 and 8 (`Pyramid`). For every query point, the features at its place in its frame
are compared with the coarse features of each frame: evidence, a map for each of several groups of channels. `Belief`
layers multiply the heat map of the evidence by a prior that is carried from frame to frame. The place is the mean of
the last heat map near its largest value, refined twice by comparing 3 x 3 fine features of the query with those about
that place; the same comparison says whether the point is seen and how sure the place is.

A belief is zero before its query's frame and no query sees another: points can be added and taken away in mid-stream
and change nothing else. Sources: docs/math.md section 2 and source 000 section 7 (the recurrence as a tracker); Doersch
et al. 2022, 2023 (TAP-Net, TAPIR: evidence from features of the query, truncated soft argmax, uncertainty).
"""

import dataclasses
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.core.errors import ShapeError, UsageError
from cssm.core.typing import Bool, Complex, Float, Grid, Shaped
from cssm.nn.belief import FASTER, Belief
from cssm.nn.layer import ChecksSizes
from cssm.nn.parts.dense import Dense
from cssm.nn.parts.pyramid import COARSE, FINE, Pyramid, as_float
from cssm.nn.parts.sampling import patches, sample

Pixels = Shaped[Any, "b t height width rgb"]  # uint8, or float -1..1
PixelFrame = Shaped[Any, "b height width rgb"]
SHARPNESS = 6.0  # of the cosines, at the start
NEAR = 2.5  # cells about the largest value that count for the place
BUMP = 0.5  # cells, the width of what a query puts into its belief
TEMPLATE = 1  # radius in fine cells of what is compared about the query
SEARCH = 3  # radius in fine cells about the place where it is compared
REFINEMENTS = 2  # each about the place that the one before has found
CONTRAST = 4.0  # of the cosines that the refinement sees
TRUST = 1.0  # logit of a frame's trust, at the start
SEEN = 0.45  # a point is said to be seen where it is, and its place is sure, with this probability; AJ is flat about it


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackerConfig:
    """Sizes of a `Tracker`. Raises UsageError for one out of range."""

    fine: int = 40
    """Channels of the features at stride 4."""
    coarse: int = 64
    """Channels of the features at stride 8."""
    blocks: tuple[int, int] = (1, 3)
    """Blocks of the encoder at stride 4 and at stride 8."""
    groups: int = 4
    """Groups of channels that are compared apart: maps of evidence."""
    search: int = 32
    """Channels compared in the refinement."""
    features: int = 8
    """Channels of the features of the evidence."""
    channels: int = 8
    """Channels of the belief: motions and decays."""
    layers: int = 3
    """Layers of the belief."""
    kernel_size: int = 7
    """Taps along each side of a motion kernel, cells."""
    hidden: int = 128
    """Hidden channels of the refinement."""
    memory: bool = True
    """False leaves the recurrence out: every frame alone, for comparison."""

    def __post_init__(self):
        for name in ("groups", "search", "features", "channels", "layers", "kernel_size", "hidden"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("fine", "coarse"):
            if getattr(self, name) < 8 or getattr(self, name) % 8:
                raise UsageError(f"{name} is {getattr(self, name)}, expected a multiple of 8")
        if self.coarse % self.groups:
            raise UsageError(f"groups is {self.groups}, expected a divisor of coarse, {self.coarse}")
        if min(self.blocks) < 0:
            raise UsageError(f"blocks is {self.blocks}, expected two numbers of at least 0")

    def make(self, rngs: nnx.Rngs) -> "Tracker":
        return Tracker(self, rngs=rngs)

    def fitted(self, input_shape: tuple[int, ...], outputs: int) -> "TrackerConfig":
        """Itself: it takes frames of any size."""
        del input_shape, outputs
        return self


class Found(NamedTuple):
    """What is said of n points in t frames."""

    tracks: Float[Any, "b n *t 2"]
    """(x, y), px, pixel centres at +.5."""
    occluded: Float[Any, "b n *t"]
    """Logits: hidden, or outside the frame."""
    unsure: Float[Any, "b n *t"]
    """Logits: the place is more than `tasks.track.SURE` px wrong."""
    heat: Float[Any, "b n *t h w"]
    """Logits of the place at stride 8."""
    beneath: Float[Any, "b n *t l h w"]
    """Those of the frame alone, then of each layer but the last."""
    earlier: Float[Any, "b n *t i 2"]
    """The places of the heat map, then after each refinement but the last."""

    @property
    def visible(self) -> Bool[Any, "*axes"]:
        """Seen, and its place is sure."""
        return (1 - jax.nn.sigmoid(self.occluded)) * (1 - jax.nn.sigmoid(self.unsure)) > SEEN


class Tracked(NamedTuple):
    """Points in every frame of one video."""

    tracks: np.ndarray
    """float32 (n, t, 2) (x, y), px."""
    visible: np.ndarray
    """bool (n, t)."""


class Query(NamedTuple):
    """What is known of a point from its frame: it is all that is compared with later ones."""

    coarse: Float[Any, "b n c"]
    fine: Float[Any, "b n k k d"]


class TrackerState(NamedTuple):
    """Of a stream: slots for max_points points, of which some are taken."""

    query: Query
    active: Bool[Any, "b n"]
    """Slots that are taken."""
    fresh: Bool[Any, "b n"]
    """Those whose query's frame comes next."""
    places: Float[Any, "b n 2"]
    """Where they were in it, (x, y) px."""
    beliefs: tuple[Complex[Any, "m c h wf"], ...]
    frame: Float[Any, "0 height width"]
    """Nothing but the size of the frames."""


class Tracker(ChecksSizes, nnx.Module):
    """The point tracker; see the module's docstring. Videos are uint8 or float, 0..255 as uint8 or -1..1 as float.

    >>> tracker = TrackerConfig(fine=16, coarse=16, blocks=(1, 1), groups=2).make(nnx.Rngs(0))
    >>> queries = jnp.array([[[0.0, 20.0, 12.0], [2.0, 8.5, 30.0]]])  # t, y, x
    >>> jax.eval_shape(tracker, jnp.zeros((1, 4, 32, 48, 3)), queries).tracks.shape
    (1, 2, 4, 2)
    """

    follows_points: ClassVar[bool] = True
    """It is called with a video and query points."""

    def __init__(self, config: TrackerConfig, *, rngs: nnx.Rngs):
        self.config = config
        groups, features = config.groups, config.features
        self.encoder = Pyramid(config.fine, config.coarse, config.blocks, rngs=rngs)
        self.compare = Dense(config.coarse, config.coarse, rngs=rngs)
        self.compare_fine = Dense(config.fine, config.search, rngs=rngs)
        self.sharpness = nnx.Param(jnp.full(groups, SHARPNESS / FASTER))
        self.evidence = nnx.Conv(groups, features, (3, 3), rngs=rngs)
        self.heat = Dense(features, 1, rngs=rngs)
        self.direct = nnx.Param(jnp.full(groups, 0.5 / FASTER))
        options = {"kernel_size": config.kernel_size, "memory": config.memory, "rngs": rngs}
        self.layers = nnx.List([Belief(config.channels, features, **options) for _ in range(config.layers)])
        self.gate = Dense(3 * groups + features + 1, 16, rngs=rngs)
        self.gates = nnx.List([Dense(16, 1, rngs=rngs) for _ in range(config.layers)])
        compared = (2 * TEMPLATE + 1) ** 2 * (2 * SEARCH + 1) ** 2
        self.refine = Dense(compared + 3 * groups + features + 1, config.hidden, rngs=rngs)
        self.refine_again = Dense(config.hidden, config.hidden, rngs=rngs)
        self.answer = Dense(config.hidden, 4, kernel_init=nnx.initializers.normal(0.01), rngs=rngs)

    # Many frames at once

    def __call__(self, video: Pixels, query_points: Float[Any, "b n 3"], *, key=None) -> Found:
        """What is said of the points in every frame; of frames before a query's own it means nothing.

        query_points: (t, y, x), t a whole number, y and x px. key: taken and not used, as there is no randomness.

        Raises:
          ShapeError: shapes that do not fit.
        """
        del key
        _check_video(video)
        return self.found(*self._encode(video), query_points)

    def found(self, fine, coarse, query_points) -> Found:
        """A call, from the features of `_encode`."""
        if query_points.ndim != 3 or query_points.shape[::2] != (fine.shape[0], 3):
            raise ShapeError(
                f"query points are (B, N, 3) of (t, y, x) for {fine.shape[0]} videos, got {query_points.shape}"
            )
        steps = fine.shape[1]
        start = jnp.round(query_points[..., 0]).astype(jnp.int32)
        places = query_points[..., :0:-1]
        query = self._query_of(fine, coarse, start, places)
        times = jnp.arange(steps)
        fresh, known = times == start[..., None], times >= start[..., None]
        beliefs = self._no_beliefs(places.shape[0] * places.shape[1], coarse.shape[2:4])
        return self._follow(beliefs, query, fine, coarse, fresh, known, places)[1]

    def track(
        self, video, query_points, *, mode: str = "parallel", bidirectional: bool = False, side: int | None = 256
    ) -> Tracked:
        """Follow points through one video, given and answered as NumPy arrays in px of that video.

        Args:
          video: (T, H, W, 3) uint8. query_points: (N, 3) (t, y, x).
          mode: "parallel", many frames at once, or "stream", one after the other in memory that does not grow with T;
            they give the same.
          bidirectional: follow points to the frames before their queries too (parallel alone).
          side: the shorter side of the frames that the model sees, px; None for the video's own size.

        Returns:
          (tracks (N, T, 2) (x, y) float32, visible (N, T) bool). Before its query, a point stands still and is not
          seen, unless bidirectional.

        Raises:
          ShapeError: shapes that do not fit. UsageError: a query outside the video, or options that do not fit.
        """
        from .track_video import track_video

        return track_video(self, video, query_points, mode, bidirectional, side)

    # One frame after the other

    def init_state(self, batch: int, grid: Grid, max_points: int = 64) -> TrackerState:
        """No frames and no points, for frames of (H, W) px and up to max_points points at a time.

        Raises:
          UsageError: max_points below 1.
        """
        if max_points < 1:
            raise UsageError(f"max_points is {max_points}, expected at least 1")
        height, width = -(-grid[0] // COARSE), -(-grid[1] // COARSE)
        size, none = 2 * TEMPLATE + 1, jnp.zeros((batch, max_points), bool)
        query = Query(
            jnp.zeros((batch, max_points, self.config.coarse)),
            jnp.zeros((batch, max_points, size, size, self.config.search)),
        )
        beliefs = self._no_beliefs(batch * max_points, (height, width))
        places = jnp.zeros((batch, max_points, 2))
        return TrackerState(query, none, none, places, beliefs, jnp.zeros((0, *grid)))

    def add_points(self, state: TrackerState, frame: PixelFrame, places, slots=None) -> TrackerState:
        """The state with more points: places (n, 2) or (B, n, 2), (x, y) px in `frame`, the next one to `step`.

        They take the first slots that are free in every clip, or `slots` (n,). Other points are not touched.

        Raises:
          ShapeError: shapes that do not fit. UsageError: places outside the frame, more points than free slots, a slot
            that is taken.
        """
        self._check_frame(state, frame)
        places = _places(places, frame)
        slots = _free_slots(state.active, places.shape[1], slots)
        most = state.active.shape[1]
        filled = np.zeros((frame.shape[0], most, 2), np.float32)
        filled[:, : places.shape[1]] = places
        where = np.full(most, most)  # beyond the last: dropped
        where[: len(slots)] = slots
        graph, parameters = nnx.split(self)
        return _add(graph, parameters, state, jnp.asarray(frame), filled, where)

    def remove_points(self, state: TrackerState, slots) -> TrackerState:
        """The state without the points in these slots, which are free then.

        Raises:
          UsageError: a slot that there is not.
        """
        slots = np.atleast_1d(np.asarray(slots, np.int64))
        most = state.active.shape[1]
        if slots.ndim != 1 or not ((slots >= 0) & (slots < most)).all():
            raise UsageError(f"slots {slots.tolist()}: expected numbers of 0..{most - 1}")
        kept = np.ones(most, bool)
        kept[slots] = False
        rows = jnp.tile(jnp.asarray(kept), state.active.shape[0])[:, None, None, None]
        return state._replace(
            active=state.active & kept, fresh=state.fresh & kept,
            beliefs=tuple(jnp.where(rows, belief, 0) for belief in state.beliefs),
        )  # fmt: skip

    def step(self, state: TrackerState, frame: PixelFrame) -> tuple[TrackerState, Found]:
        """One more frame (B, H, W, 3): the state after it, and what is said of every slot in it, without the axis t.

        Raises:
          ShapeError: a frame of another batch or size than the state's.
        """
        self._check_frame(state, frame)
        fine, coarse = self._encode(frame[:, None])
        fresh, known = state.fresh[..., None], state.active[..., None]
        beliefs, found = self._follow(state.beliefs, state.query, fine, coarse, fresh, known, state.places)
        state = state._replace(fresh=jnp.zeros_like(state.fresh), beliefs=beliefs)
        return state, Found(*(x[:, :, 0] for x in found))

    def _added(self, state: TrackerState, frame, places, slots) -> TrackerState:
        fine, coarse = self._encode(frame[:, None])
        new = self._query_of(fine, coarse, jnp.zeros(places.shape[:2], jnp.int32), places)
        put = lambda old, value: old.at[:, slots].set(value, mode="drop")  # noqa: E731
        return state._replace(
            query=jax.tree.map(put, state.query, new), active=put(state.active, True), fresh=put(state.fresh, True),
            places=put(state.places, places),
        )  # fmt: skip

    def _check_frame(self, state: TrackerState, frame) -> None:
        expected = (state.active.shape[0], *state.frame.shape[1:], 3)
        if frame.shape != expected:
            raise ShapeError(
                f"a frame of shape {frame.shape} in a stream of frames {expected}: resize it, or begin another stream"
            )

    # What both are made of

    def _encode(self, video) -> tuple[Float[Any, "b t h w d"], Float[Any, "b t k l c"]]:
        """(fine, coarse) features to compare, of frames filled up to multiples of 8 px."""
        x = as_float(video)
        batch, steps, height, width, _ = x.shape
        x = x.reshape(batch * steps, height, width, 3)
        x = jnp.pad(x, [(0, 0), (0, -height % COARSE), (0, -width % COARSE), (0, 0)], mode="edge")
        fine, coarse = self.encoder(x)
        fine, coarse = self.compare_fine(fine), self.compare(coarse)
        coarse = _unit(coarse, self.config.groups)
        fine = _unit(fine, 1)
        return fine.reshape(batch, steps, *fine.shape[1:]), coarse.reshape(batch, steps, *coarse.shape[1:])

    def _query_of(self, fine, coarse, start, places) -> Query:
        """The features at places (b, n, 2) px of frames `start` (b, n)."""
        batch, steps = fine.shape[:2]
        maps = (jnp.arange(batch)[:, None] * steps + start).ravel()
        flat = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
        found = patches(flat(fine), maps, flat(places) / FINE, TEMPLATE)
        rough = sample(flat(coarse), maps, flat(places) / COARSE)
        return Query(*(x.reshape(*places.shape[:2], *x.shape[1:]) for x in (rough, found)))

    def _no_beliefs(self, rows: int, grid) -> tuple:
        return tuple(layer.init_state(rows, (grid[0], grid[1])) for layer in self.layers)

    def _follow(self, beliefs, query: Query, fine, coarse, fresh, known, places) -> tuple[tuple, Found]:
        """(beliefs after the frames, what is said). fresh, known (b, n, t): a query's own frame; those from it on."""
        after, heats, (cells, details) = self._believed(beliefs, query, coarse, fresh, known, places)
        shape, grid = fresh.shape, coarse.shape[2:4]
        found = [COARSE * cells.reshape(*shape, 2)]
        for _ in range(REFINEMENTS):
            answer = self._refined(query.fine, fine, found[-1], details.reshape(*shape, -1))
            found.append(jax.lax.stop_gradient(found[-1]) + answer[..., :2] * FINE)
        return after, Found(
            tracks=found[-1],
            occluded=answer[..., 2],
            unsure=answer[..., 3],
            heat=heats[-1].reshape(*shape, *grid),
            beneath=jnp.stack(heats[:-1], 2).reshape(*shape, -1, *grid),
            earlier=jnp.stack(found[:-1], -2),
        )

    def _believed(self, beliefs, query: Query, coarse, fresh, known, places) -> tuple[tuple, list, tuple]:
        """(beliefs after the frames, heat maps from the evidence's up, `_read` of the last), rows n = b x points."""
        evidence = self._compared(query.coarse, coarse)
        evidence = evidence.reshape(-1, *evidence.shape[2:])
        steps, height, width, groups = evidence.shape[1:]
        features = self.evidence(evidence.reshape(-1, height, width, groups))
        features = jax.nn.relu(features).reshape(*evidence.shape[:-1], -1)
        summary = jnp.concatenate([evidence.max((2, 3)), evidence.mean((2, 3)), evidence.std((2, 3))], -1)
        fresh, known = fresh.reshape(-1, steps), known.reshape(-1, steps)
        begun = _bump(places.reshape(-1, 2), (height, width))[:, None]
        alone = self.heat(features)[..., 0] + evidence @ (FASTER * self.direct[...])
        heats, after = [alone], []
        chances, *read = _read(alone, features, summary)
        for layer, gate, state in zip(self.layers, self.gates, beliefs, strict=True):
            trust = jax.nn.sigmoid(gate(jax.nn.gelu(self.gate(read[1])))[..., 0] + TRUST)
            trust = jnp.where(fresh, 1.0, trust) * known
            posterior = jnp.where(fresh[..., None, None], begun, chances)
            state, heat = layer.scan(state, alone, features, posterior, trust)
            chances, *read = _read(heat, features, summary)
            heats.append(heat)
            after.append(state)
        return tuple(after), heats, tuple(read)

    def _compared(self, query, coarse) -> Float[Any, "b n t h w g"]:
        """Scaled cosines between query (b, n, c) and coarse features, for each group of channels."""
        split = lambda x: x.reshape(*x.shape[:-1], self.config.groups, -1)  # noqa: E731
        found = jnp.einsum("bngc,bthwgc->bnthwg", split(query), split(coarse))
        return found * FASTER * self.sharpness[...]

    def _refined(self, query, fine, rough, details) -> Float[Any, "b n t 4"]:
        """(shift x, y in fine cells, occluded, unsure) from comparing about the rough places."""
        batch, points, steps, _ = rough.shape
        about = jax.lax.stop_gradient(rough).reshape(-1, 2) / FINE
        maps = jnp.broadcast_to(jnp.arange(batch * steps).reshape(batch, 1, steps), rough.shape[:-1])
        around = patches(fine.reshape(-1, *fine.shape[2:]), maps.ravel(), about, SEARCH + TEMPLATE)
        around = around.reshape(batch, points, steps, *around.shape[1:])
        size, taps = 2 * SEARCH + 1, 2 * TEMPLATE + 1
        every = jnp.einsum("bnijd,bntkld->bntijkl", query, around)
        found = [every[..., i, j, i : i + size, j : j + size] for i in range(taps) for j in range(taps)]
        found = jnp.stack(found, -1).reshape(batch, points, steps, -1)
        hidden = jax.nn.gelu(self.refine(jnp.concatenate([CONTRAST * found, details], -1)))
        hidden = hidden + jax.nn.gelu(self.refine_again(hidden))
        return self.answer(hidden)


@partial(jax.jit, static_argnums=0)
def _add(graph, parameters, state: TrackerState, frame, places, slots) -> TrackerState:
    return nnx.merge(graph, parameters)._added(state, frame, places, slots)


def _places(places, frame) -> np.ndarray:
    """Places (b, n, 2) inside the frame."""
    places = np.asarray(places, np.float32)
    places = np.broadcast_to(places, (frame.shape[0], *places.shape)) if places.ndim == 2 else places
    if places.ndim != 3 or places.shape[::2] != (frame.shape[0], 2) or not places.size:
        raise ShapeError(f"points are (N, 2) or (B, N, 2) of (x, y), at least one, got shape {places.shape}")
    height, width = frame.shape[1:3]
    inside = (places >= 0) & (places <= (width, height))
    if not inside.all():
        wrong = places[~inside.all(-1)][0]
        raise UsageError(f"point (x, y) = {tuple(wrong.tolist())} is outside the frame of {width} x {height} px")
    return places


def _free_slots(active, count: int, slots) -> np.ndarray:
    taken: Any = np.asarray(active).any(0)
    if slots is None:
        free = np.flatnonzero(~taken)
        if count > len(free):
            raise UsageError(
                f"{count} more points, but {len(free)} of {len(taken)} slots are free: remove some, or begin the "
                "stream with a larger max_points"
            )
        return free[:count]
    slots = np.asarray(slots, np.int64).ravel()
    fits = len(slots) == count and len(set(slots.tolist())) == count and ((slots >= 0) & (slots < len(taken))).all()
    if not fits or taken[slots].any():
        raise UsageError(
            f"slots {slots.tolist()} for {count} points: expected as many free ones of 0..{len(taken) - 1}"
        )
    return slots


def _check_video(video) -> None:
    if video.ndim != 5 or video.shape[-1] != 3 or 0 in video.shape:
        raise ShapeError(f"the tracker takes videos (B, T, H, W, 3), none of them zero, got shape {video.shape}")


def _unit(x, groups: int):
    """Each group of channels with length 1."""
    split = x.reshape(*x.shape[:-1], groups, -1)
    return (split * jax.lax.rsqrt(jnp.square(split).sum(-1, keepdims=True) + 1e-6)).reshape(x.shape)


def _bump(places, grid) -> Float[Any, "n h w"]:
    """A Gaussian about each place (x, y) px, as a distribution over the cells."""
    cells = places / COARSE - 0.5
    y, x = jnp.arange(grid[0]), jnp.arange(grid[1])
    along = lambda at, centre: jax.nn.softmax(-jnp.square(at - centre[:, None]) / (2 * BUMP**2))  # noqa: E731
    return along(y, cells[:, 1])[:, :, None] * along(x, cells[:, 0])[:, None, :]


def _read(heat, features, summary) -> tuple[Float[Any, "n t h w"], Float[Any, "n t 2"], Float[Any, "n t f"]]:
    """softmax(heat), its place by `near_largest`, and the features there, the summary of the frame, the share."""
    chances = jax.nn.softmax(heat.reshape(*heat.shape[:2], -1)).reshape(heat.shape)
    cells, share, near = near_largest(chances)
    return chances, cells, jnp.concatenate([jnp.einsum("nthw,nthwf->ntf", near, features), summary, share], -1)


def near_largest(
    chances: Float[Any, "n t h w"],
) -> tuple[Float[Any, "n t 2"], Float[Any, "n t 1"], Float[Any, "n t h w"]]:
    """The mean place (x, y), in cells, of a distribution within NEAR of its largest value, the share of it there, and
    it within NEAR alone, as weights that sum to one."""
    height, width = chances.shape[-2:]
    flat = chances.reshape(*chances.shape[:-2], -1)
    best = jnp.argmax(flat, -1)
    y, x = jnp.repeat(jnp.arange(height), width), jnp.tile(jnp.arange(width), height)
    away = jnp.square(y - (best // width)[..., None]) + jnp.square(x - (best % width)[..., None])
    near = jnp.where(away <= NEAR**2, flat, 0)
    share = near.sum(-1, keepdims=True)
    near = near / share
    return jnp.stack([near @ (x + 0.5), near @ (y + 0.5)], -1), share, near.reshape(chances.shape)
