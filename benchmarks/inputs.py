"""Examples a second into training, and tokenizing: `python benchmarks/inputs.py [NAME ...]`, beside what others use.

images: CIFAR-10 from memory in batches of 128, padded crop and flip, as numbers from 0 to 1. fmjax puts the bytes on
the device and augments there, in one jitted program whose time is counted, as it is a part of the step in a run; the
others are PyTorch's DataLoader over torchvision's transforms (without workers and with two) and plain Grain.
text: windows of 256 bytes at random places of a text, 32 a batch, on the device; beside DataLoader, plain Grain, and
nanoGPT's way of stacking slices.
wordpiece, bpe: texts to token ids, MB/s, beside the library `tokenizers` and transformers' fast tokenizer with the same
vocabulary, which all must give the same ids. fmjax runs the same library.

In turns in one process; the first call of each is not among them. Needs the extra `oracle` and, under
$FMJAX_DATA, tfds/cifar10, text/tinyshakespeare.txt.gz and text/novels_valid.jsonl.xz.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import input_peers
import numpy as np
import turns

from fmjax import results
from fmjax.core.errors import ConfigError, exits, extra

os.environ.setdefault("HF_HUB_OFFLINE", "1")
IMAGES, WINDOWS, LENGTH = 128, 32, 256  # rows of a batch of images, of text; tokens of a window
Ways = dict[str, Callable[[], Any]]


def images(batches: int) -> tuple[Ways, float, str]:
    """(ways to read `batches` batches, examples of a call, what it is)."""
    import jax

    from fmjax.data import augment, pipeline, sources
    from fmjax.sharding.mesh import make_mesh, put_rows

    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    source = sources.Tfds("cifar10", "train")
    arrays = source.rows(np.arange(len(source)))
    transform = augment.compose((augment.padded_crop(4), augment.flip()))

    @jax.jit
    def augmented(key: jax.Array, image: jax.Array) -> jax.Array:
        return transform(key, image / np.float32(255))

    def ours() -> Iterator[Any]:
        for k, batch in enumerate(pipeline.stream(source, IMAGES).iterate()):
            yield augmented(jax.random.fold_in(jax.random.key(0), k), put_rows(mesh, batch)["image"])

    data = input_peers.Images(arrays["image"], arrays["label"])
    readers = {
        turns.OURS: ours(),
        "DataLoader": input_peers.loader(data, IMAGES, 0),
        "DataLoader, 2 workers": input_peers.loader(data, IMAGES, 2),
        "Grain": input_peers.grain_images(arrays["image"], arrays["label"], IMAGES),
    }
    ways = {way: lambda reader=reader: read(reader, batches) for way, reader in readers.items()}
    return ways, batches * IMAGES, f"CIFAR-10, batches of {IMAGES}, padded crop and flip"


def text(batches: int) -> tuple[Ways, float, str]:
    """(ways to read `batches` batches, examples of a call, what it is)."""
    import jax

    from fmjax.data import corpora, pipeline, tokenizers
    from fmjax.data.text import Windows
    from fmjax.sharding.mesh import make_mesh, put_rows

    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    corpus = corpora.TextFiles("$FMJAX_DATA/text/tinyshakespeare.txt.gz")
    source = Windows(corpus, tokenizers.byte(), LENGTH, stride=1)
    tokens = np.concatenate(source.parts)

    def ours() -> Iterator[Any]:
        for batch in pipeline.stream(source, WINDOWS).iterate():
            yield put_rows(mesh, batch)["tokens"]

    data = input_peers.Crops(tokens, LENGTH)
    readers = {
        turns.OURS: ours(),
        "DataLoader": input_peers.loader(data, WINDOWS, 0),
        "DataLoader, 2 workers": input_peers.loader(data, WINDOWS, 2),
        "Grain": input_peers.grain_windows(tokens, WINDOWS, LENGTH),
        "nanoGPT's get_batch": input_peers.random_windows(tokens, WINDOWS, LENGTH),
    }
    ways = {way: lambda reader=reader: read(reader, batches) for way, reader in readers.items()}
    return ways, batches * WINDOWS, f"windows of {LENGTH} bytes at random places, {WINDOWS} a batch"


def read(reader: Iterator[Any], batches: int) -> None:
    """Take batches and wait for the last."""
    for _ in range(batches):
        batch = next(reader)
    if hasattr(batch, "block_until_ready"):
        batch.block_until_ready()


def wordpiece(batches: int) -> tuple[Ways, float, str]:
    """The vocabulary of MiniLM, 30,522 pieces."""
    from fmjax import pretrained

    return tokenizing(Path(pretrained.minilm()), "WordPiece of 30,522 pieces", batches)


def bpe(batches: int) -> tuple[Ways, float, str]:
    """A byte-level BPE of 8,192 pieces, trained on the texts by the library itself."""
    library = extra("tokenizers", "text")
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = library.decoders.ByteLevel()
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    learn = library.trainers.BpeTrainer(
        vocab_size=8192, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts(), learn)
    with tempfile.TemporaryDirectory() as folder:
        made.save(f"{folder}/tokenizer.json")
        (Path(folder) / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
        return tokenizing(Path(folder), "byte-level BPE of 8,192 pieces", batches)


def tokenizing(folder: Path, what: str, batches: int) -> tuple[Ways, float, str]:
    """(ways to encode the texts `batches` times, MB of a call, what it is).

    Raises:
      ConfigError: the ways give different ids.
    """
    from fmjax.data import tokenizers

    transformers, library = extra("transformers", "oracle"), extra("tokenizers", "text")
    ours = tokenizers.load(str(folder))
    plain = library.Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain.no_truncation()
    plain.no_padding()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    given = texts()
    encode: dict[str, Callable[[], list]] = {
        turns.OURS: lambda: ours.encode_many(given),
        "tokenizers": lambda: [x.ids for x in plain.encode_batch(given, add_special_tokens=False)],
        "transformers": lambda: fast(given, add_special_tokens=False)["input_ids"],
    }
    said = {way: [list(map(int, ids)) for ids in call()] for way, call in encode.items()}
    for way, ids in said.items():
        if ids != said[turns.OURS]:
            raise ConfigError(f"{what}: {way} gives other ids than {turns.OURS}")
    ways = {way: lambda call=call: [call() for _ in range(batches)] and None for way, call in encode.items()}
    size = sum(len(one.encode()) for one in given) / 1e6
    return ways, batches * size, f"tokenizing {len(given)} texts of {size:.1f} MB together, {what}"


def texts(size: int = 2000, most: int = 1000) -> list[str]:
    """Pieces of about `size` characters of English novels."""
    from fmjax.data import corpora

    corpus = corpora.TextFiles("$FMJAX_DATA/text/novels_valid.jsonl.xz")
    whole = "\n".join(corpus)
    return [whole[i : i + size] for i in range(0, len(whole), size)][:most]


CASES: dict[str, tuple[Callable[[int], tuple[Ways, float, str]], int, str]] = {
    "images": (images, 40, "examples a second"),
    "text": (text, 1000, "examples a second"),
    "wordpiece": (wordpiece, 1, "MB/s"),
    "bpe": (bpe, 1, "MB/s"),
}
PACKAGES = {"images": ("torch", "torchvision", "grain"), "text": ("torch", "grain")}


def measure(name: str, repeats: int, batches: int | None, write: bool) -> None:
    """One case, in turns; its row."""
    torch = extra("torch", "oracle")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    make, usual, unit = CASES[name]
    ways, amount, what = make(batches or usual)
    found = turns.take(ways, repeats)
    rates = {way: amount / s for way, s in found.medians.items()}
    note = f"medians: {turns.words(rates, unit)}; {turns.ratio_words(found)}"
    print(f"{name}: {note}", flush=True)
    if write:
        results.write_row(
            f"inputs_{name}",
            task=what,
            metric=unit,
            command=f"python benchmarks/inputs.py {name}",
            values=[amount / s for s in found.seconds[turns.OURS]],
            repeats=repeats,
            baseline=turns.baseline(
                found, *PACKAGES.get(name, ("tokenizers", "transformers")), scale=lambda s: amount / s
            ),
            note=note,
        )


def main(argv: list[str] | None = None) -> int:
    """Time each case and write its row."""
    more = {"--batches": {"type": int, "help": "batches, or passes over the texts, of one call"}}
    args = turns.arguments(argv, main.__doc__, CASES, more=more)
    return turns.each(args.names or CASES, lambda name: measure(name, args.repeats, args.batches, not args.print))


if __name__ == "__main__":
    sys.exit(exits(main)())
