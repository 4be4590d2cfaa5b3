"""Turn text into token shards: python -m fmjax.tokenize --input=FILES_OR_FOLDER... --tokenizer=byte --out=DIR.

Run again on the same input, it sees by hash that there is nothing to do.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fmjax.core.errors import ConfigError, DataError, exits

HELP = """\
tokenizers: byte (256 bytes and an end), characters (those that occur), bpe:8192 (a byte-level BPE with 8192 ids,
trained on the training split), or a path: a tokenizer.json, or a folder with one or with a saved tokenizer.

examples:
  python -m fmjax.tokenize --input=books/ --pattern='*.txt' --tokenizer=byte --out=shards/books
  python -m fmjax.tokenize --input a.jsonl.xz b.jsonl.gz --tokenizer=bpe:8192 --valid_fraction=0.01 --out=shards/web
  python -m fmjax.tokenize --verify --out=shards/web

In a config: call(shards.Shards, path="shards/web", split="train", length=256, stride=1)."""


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m fmjax.tokenize",
        description="Encode text into memory-mapped shards of token ids with an index and hashes.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--input", nargs="+", action="extend", default=[], metavar="PATH", help="text files or folders; .jsonl has a "
        "document a line, any other file is one; .gz and .xz are unpacked")  # fmt: skip
    add("--out", required=True, metavar="DIR", help="the folder of shards to make")
    add("--tokenizer", default="byte", help="byte, characters, bpe:VOCAB, or a path (default: byte)")
    add("--pattern", default="*", help="which files of a folder (default: all that are not hidden)")
    add("--field", default="text", help="where a line of .jsonl keeps its text (default: text)")
    add("--invalid", choices=("fail", "replace"), default="fail", help="at text that is not UTF-8 (default: fail)")
    add("--valid_fraction", type=float, default=0.0, metavar="F", help="how much to hold out (default: nothing)")
    add("--valid_by", choices=("documents", "tail"), default="documents", help="hold out documents, by the hash of "
        "their text, or the last characters of the corpus (default: documents)")  # fmt: skip
    add("--shard_tokens", type=int, default=1 << 27, metavar="N", help="tokens in a file (default: %(default)s)")
    add("--workers", type=int, default=0, metavar="N", help="processes that encode (default: 0, encode here)")
    add("--overwrite", action="store_true", help="replace shards of another input or with other settings")
    add("--verify", action="store_true", help="only check the hashes of the shards in --out")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Write the shards, unless they are there."""
    args = arguments(argv)
    from fmjax.data import shards, tokenizers
    from fmjax.data.cache import digest
    from fmjax.data.corpora import TextFiles
    from fmjax.data.windows import LAYOUT

    out = Path(args.out)
    if args.verify:
        print(f"{out}: {shards.verify(out):,} bytes, every hash agrees")
        return 0
    if not args.input:
        raise ConfigError("nothing to tokenize: name files or folders with --input")
    if args.workers < 0 or args.shard_tokens < 1:
        raise ConfigError("--workers may not be negative, nor --shard_tokens below 1")
    corpus = TextFiles(tuple(args.input), args.pattern, args.field, args.invalid)
    splits = _splits(corpus, args.valid_fraction, args.valid_by)
    name, make_tokenizer = _tokenizer(args.tokenizer, corpus, splits["train"])
    texts = {split: part.fingerprint for split, part in splits.items()}
    key = digest("tokenize", shards.FORMAT, tokenizers.FORMAT, LAYOUT, texts, name, args.shard_tokens)
    if out.exists() and any(out.iterdir()) and not _replaces(out, key, args.overwrite):
        print(f"{out} is up to date: same text, same settings")
        return 0
    tokenizer = make_tokenizer()
    start = time.perf_counter()
    index = shards.write(out, splits, tokenizer, key, args.workers, args.shard_tokens, args.overwrite, _Progress())
    seconds = time.perf_counter() - start
    for name, entry in index["splits"].items():
        print(
            f"{name:12} {entry['documents']:,} documents  {entry['tokens']:,} tokens  "
            f"{entry['bytes'] / entry['tokens']:.3f} bytes/token  {len(entry['shards'])} shards"
        )
    done = sum(entry["bytes"] for entry in index["splits"].values()) / 1e6
    print(f"{out}: {done:.1f} MB of text, vocabulary {tokenizer.vocab}, {seconds:.1f} s, {done / seconds:.1f} MB/s")
    return 0


def _tokenizer(spec: str, corpus: Any, train: Any) -> tuple[str, Callable[[], Any]]:
    """The tokenizer that `--tokenizer` names: what tells it from others, and how to make it."""
    from fmjax.data import tokenizers

    kind, _, size = spec.partition(":")
    if spec == "byte":
        return spec, tokenizers.byte
    if spec == "characters":
        return spec, lambda: tokenizers.characters(corpus)
    if kind == "bpe" and size.isdigit():
        return f"{spec} {tokenizers.WORDS}", lambda: tokenizers.trained_bpe(train, int(size))
    if Path(spec).exists():
        made = tokenizers.load(spec)
        return made.fingerprint, lambda: made
    raise ConfigError(f"--tokenizer={spec} is none: byte, characters, bpe:VOCAB such as bpe:8192, or a path")


def _splits(corpus: Any, fraction: float, by: str) -> dict[str, Any]:
    from fmjax.data.corpora import HeldOut, Part

    if not 0 <= fraction < 1:
        raise ConfigError(f"--valid_fraction is at least 0 and below 1, not {fraction}")
    if not fraction:
        return {"train": corpus}
    if by == "tail":
        return {"train": Part(corpus, stop=1 - fraction), "validation": Part(corpus, start=1 - fraction)}
    return {split: HeldOut(corpus, split, fraction) for split in ("train", "validation")}


def _replaces(out: Path, key: str, overwrite: bool) -> bool:
    """Whether what is in `out` has to be written again; False when it is up to date."""
    from fmjax.data import shards

    if not (out / shards.INDEX).exists():
        raise DataError(f"{out} holds something else than shards: choose another --out")
    if overwrite:
        return True
    if shards.read_index(out)["key"] != key:
        raise DataError(f"{out} holds shards of another text or other settings: choose another --out, or --overwrite")
    return False


class _Progress:
    """A line every ten seconds."""

    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()

    def __call__(self, split: str, entry: dict[str, Any]) -> None:
        now = time.perf_counter()
        if now - self.last >= 10:
            self.last = now
            print(f"{split}: {entry['bytes'] / 1e6:.0f} MB, {now - self.start:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    exits(main)()
