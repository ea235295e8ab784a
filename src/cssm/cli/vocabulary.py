"""The words of the command line: which names mean which field of a run. One table, for help and for parsing.

Every field of every part of a run is an option under its full name (--train.lr), and under its own name (--lr) where
only one part has it. The names below are those that users of published code type; they win over a field's own name.
Underscores may stand for dashes.
"""

from collections.abc import Iterable

from .fields import Field

SHORT: dict[str, tuple[str, ...]] = {  # name -> the fields it means: the first that the run has
    "cssm": ("model.mixer",),
    "cssm_type": ("model.mixer",),
    "seq_len": ("data.frames", "model.seq_len", "model.timesteps"),
    "num_timesteps": ("data.frames", "model.seq_len", "model.timesteps"),
    "image_size": ("data.size",),
    "stem_mode": ("model.stem",),
    "pos_embed": ("model.position",),
    "norm_type": ("model.norm",),
    "pool_type": ("model.pool",),
    "frame_readout": ("model.readout",),
    "pathfinder_difficulty": ("data.difficulty",),
}
MIXER_OPTIONS = ("kernel_size", "state_dim")  # options of a mixer with a name of their own: --kernel-size 7

REFUSED = {  # options of published code that are no choice here, and why
    "save_best_only": "the best checkpoint and the newest ones are always kept: --keep says how many",
    "stem_norm_order": "the stems are those of docs/math.md, section 6: --stem chooses one",
    "tf_parallel_reads": "files are read by threads that the machine decides: --prefetch says how far ahead",
    "tf_prefetch_batches": "give --prefetch",
    "delta_key_dim": "the width of keys is that of docs/math.md: --cssm gdn or gdn_seq",
}

# names that choose a part of the run, and with it which fields there are
ARCH, DATASET, DATA_DIR, AUGMENT = (
    ("arch", "model"),
    ("dataset",),
    ("data_dir", "tfrecord_dir", "data.root"),
    ("augment",),
)

COMMON = (  # shown by --help; --help-all shows every field
    "model.variant", "model.mixer", "model.embed_dim", "model.depth", "model.depths", "model.dims", "model.seq_len",
    "model.timesteps", "model.patch_size", "model.mixer_options", "model.stem", "model.drop_path",
    "model.position", "model.norm", "model.readout", "data.frames", "data.size", "data.difficulty", "data.distractors",
    "data.crop_pct", "data.interpolation", "data.random_crop", "data.decoder", "data.skip_corrupt",
    "train.steps", "train.epochs", "train.batch_size", "train.lr", "train.weight_decay",
    "train.accumulate", "train.compute_dtype", "train.seed", "train_size", "val_size",
)  # fmt: skip


def names(fields: Iterable[Field]) -> dict[str, Field]:
    """Every name under which a field can be given, without dashes: {"train.lr": ..., "lr": ..., "cssm": ...}."""
    fields = list(fields)
    known = {field.path: field for field in fields}
    own = [field.name for field in fields]
    for field in fields:
        if own.count(field.name) == 1:
            known.setdefault(field.name, field)
    for short, paths in SHORT.items():
        found = [known[path] for path in paths if path in known]
        if found:
            known[short] = found[0]
    return known


def plain_name(name: str) -> str:
    """The field's name that an option stands for, whatever the run: "difficulty" of pathfinder_difficulty."""
    return SHORT.get(name, (name,))[0].rpartition(".")[2]
