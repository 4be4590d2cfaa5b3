"""Turn text into token shards: python -m fmjax.tokenize --input=FILES_OR_FOLDER... --tokenizer=byte --out=DIR.

Run again on the same input, it sees by hash that there is nothing to do.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fmjax.core.errors import ConfigError, DataError, exits

HELP = """\
tokenizers: byte (256 bytes and an end), characters (those that occur), bpe:8192, unigram:8192 (byte-level, with 8192
ids, trained on the training split), wordpiece:8192 (BERT's; it loses case, accents and spaces), or a path: a
tokenizer.json, a SentencePiece .model, or a folder with one or with a saved tokenizer.

examples:
  python -m fmjax.tokenize --input=books/ --pattern='*.txt' --tokenizer=byte --out=shards/books
  python -m fmjax.tokenize --input a.jsonl.xz b.jsonl.gz --tokenizer=bpe:8192 --valid_fraction=0.01 --out=shards/web
  python -m fmjax.tokenize --input web/ --clean --min_chars=200 --dedupe=near --workers=8 --out=shards/web
  python -m fmjax.tokenize --verify --out=shards/web

In a config: call(shards.Shards, path="shards/web", split="train", length=256, stride=1), or packed:
call(packing.PackedShards, path="shards/web", split="train", length=256)."""


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m fmjax.tokenize",
        description="Clean text, leave duplicates out, and encode it into memory-mapped shards of token ids with an "
        "index and hashes.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--input", nargs="+", action="extend", default=[], metavar="PATH", help="text files or folders; .jsonl has a "
        "document a line, any other file is one; .gz and .xz are unpacked")  # fmt: skip
    add("--out", required=True, metavar="DIR", help="the folder of shards to make")
    add("--pattern", default="*", help="which files of a folder (default: all that are not hidden)")
    add("--field", default="text", help="where a line of .jsonl keeps its text (default: text)")
    add("--invalid", choices=("fail", "replace"), default="fail", help="at text that is not UTF-8 (default: fail)")
    add("--clean", action="store_true", help="Unicode in one form, no control characters, no repetitive documents")
    add("--unicode", choices=("NFC", "NFKC", "none"), default="NFC", help="the form, with --clean (default: NFC)")
    add("--fix", action="store_true", help="with --clean, repair wrongly decoded text (needs ftfy)")
    add("--min_chars", type=int, default=1, metavar="N", help="with --clean, drop shorter documents")
    add("--max_chars", type=int, metavar="N", help="with --clean, drop longer documents")
    add("--min_words", type=int, default=0, metavar="N", help="with --clean, drop documents of fewer words")
    add("--keep_repetitive", action="store_true", help="with --clean, keep documents that repeat themselves")
    add("--dedupe", choices=("none", "exact", "near"), default="none", help="leave out copies, or also near-copies")
    add("--near", type=float, metavar="F", help="the overlap of near-copies (default: 0.8)")
    add("--valid_fraction", type=float, default=0.0, metavar="F", help="how much to hold out (default: nothing)")
    add("--valid_by", choices=("documents", "tail"), default="documents", help="hold out documents, by the hash of "
        "their text, or the last characters of the corpus (default: documents)")  # fmt: skip
    add("--tokenizer", default="byte", help="byte, characters, bpe:VOCAB, unigram:VOCAB, wordpiece:VOCAB, or a path "
        "(default: byte)")  # fmt: skip
    add("--specials", default="", metavar="NAMES", help="special ids to add at the end, such as mask,pad,cls,sep")
    add("--sentinels", type=int, default=0, metavar="N", help="ids for spans left out to add at the end")
    add("--shard_tokens", type=int, default=1 << 27, metavar="N", help="tokens in a file (default: %(default)s)")
    add("--workers", type=int, default=0, metavar="N", help="processes; 0 works here (default), -1 is one a core")
    add("--overwrite", action="store_true", help="replace shards of another input or with other settings")
    add("--verify", action="store_true", help="only check the hashes of the shards in --out")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Write the shards, unless they are there."""
    args = arguments(argv)
    from fmjax.data import shards, tokenizers
    from fmjax.data.cache import digest
    from fmjax.data.windows import LAYOUT

    out = Path(args.out)
    if args.verify:
        print(f"{out}: {shards.verify(out):,} bytes, every hash agrees")
        return 0
    if not args.input:
        raise ConfigError("nothing to tokenize: name files or folders with --input")
    if args.workers < -1 or args.shard_tokens < 1:
        raise ConfigError("--workers may not be below -1, nor --shard_tokens below 1")
    workers = (os.cpu_count() or 1) if args.workers == -1 else args.workers
    corpus, cleaned, unique = _corpus(args, workers)
    splits = _splits(corpus, args.valid_fraction, args.valid_by)
    name, make_tokenizer = _tokenizer(args, corpus, splits["train"])
    texts = {split: part.fingerprint for split, part in splits.items()}
    key = digest("tokenize", shards.FORMAT, tokenizers.FORMAT, LAYOUT, texts, name, args.shard_tokens)
    if out.exists() and any(out.iterdir()) and not _replaces(out, key, args.overwrite):
        print(f"{out} is up to date: same text, same settings")
        return 0
    began = time.perf_counter()
    if unique:
        unique.verdicts  # noqa: B018 - found before the rest, so that its time is its own
        _say_time("duplicates", began)
    start = time.perf_counter()
    tokenizer = make_tokenizer()
    _say_time("tokenizer", start)
    index = shards.write(out, splits, tokenizer, key, workers, args.shard_tokens, args.overwrite, _Progress())
    seconds = time.perf_counter() - began
    for name, entry in index["splits"].items():
        print(
            f"{name:12} {entry['documents']:,} documents  {entry['tokens']:,} tokens  "
            f"{entry['bytes'] / entry['tokens']:.3f} bytes/token  {len(entry['shards'])} shards"
        )
    if cleaned:
        _say_dropped("filtered", cleaned.documents, cleaned.dropped)
    if unique:
        _say_dropped("duplicates", unique.documents, unique.dropped)
    done = sum(entry["bytes"] for entry in index["splits"].values()) / 1e6
    print(f"{out}: {done:.1f} MB of text, vocabulary {tokenizer.vocab}, {seconds:.1f} s, {done / seconds:.1f} MB/s")
    return 0


def _corpus(args: argparse.Namespace, workers: int) -> tuple[Any, Any, Any]:
    """The documents; and the steps that clean them and leave duplicates out, None for those not asked for."""
    from fmjax.data.corpora import TextFiles
    from fmjax.data.documents import Cleaned, Cleaner
    from fmjax.data.duplicates import Deduplicated

    settings = {"unicode": args.unicode, "fix": args.fix, "min_chars": args.min_chars, "max_chars": args.max_chars}
    settings |= {"min_words": args.min_words, "repetition": not args.keep_repetitive}
    cleaner, plain = Cleaner(**settings), Cleaner()
    if cleaner != plain and not args.clean:
        changed = [f"--{k}" for k, v in settings.items() if v != getattr(plain, k) and k != "repetition"]
        raise ConfigError(f"{', '.join(changed) or '--keep_repetitive'}: this is for cleaning, add --clean")
    if args.near is not None and args.dedupe != "near":
        raise ConfigError("--near is for near-copies, add --dedupe=near")
    corpus: Any = TextFiles(tuple(args.input), args.pattern, args.field, args.invalid)
    cleaned = corpus = Cleaned(corpus, cleaner, workers) if args.clean else corpus
    if args.dedupe != "none":
        near = 0.8 if args.near is None else args.near
        corpus = Deduplicated(corpus, near if args.dedupe == "near" else None, workers=workers)
    return corpus, cleaned if args.clean else None, corpus if args.dedupe != "none" else None


def _tokenizer(args: argparse.Namespace, corpus: Any, train: Any) -> tuple[str, Callable[[], Any]]:
    """The tokenizer that the flags name: what tells it from others, and how to make it."""
    from fmjax.data import tokenizers

    name, make = _plain_tokenizer(args.tokenizer, corpus, train)
    names = tuple(part.strip() for part in args.specials.split(",") if part.strip())
    if not names and not args.sentinels:
        return name, make
    tokenizers.with_specials(tokenizers.byte(), names, args.sentinels)  # refuses what is none before the work
    return f"{name} {names} {args.sentinels}", lambda: tokenizers.with_specials(make(), names, args.sentinels)


def _plain_tokenizer(spec: str, corpus: Any, train: Any) -> tuple[str, Callable[[], Any]]:
    from fmjax.data import tokenizers

    kind, _, size = spec.partition(":")
    trained = {
        "bpe": tokenizers.trained_bpe,
        "unigram": tokenizers.trained_unigram,
        "wordpiece": tokenizers.trained_wordpiece,
    }
    if spec == "byte":
        return spec, tokenizers.byte
    if spec == "characters":
        return spec, lambda: tokenizers.characters(corpus)
    if kind in trained and size.isdigit():
        return f"{spec} {tokenizers.WORDS}", lambda: trained[kind](train, int(size))
    if Path(spec).exists():
        made = tokenizers.load(spec)
        return made.fingerprint, lambda: made
    raise ConfigError(
        f"--tokenizer={spec} is none: byte, characters, bpe:VOCAB such as bpe:8192, unigram:VOCAB, wordpiece:VOCAB, "
        "or a path"
    )


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


def _say_time(what: str, start: float) -> None:
    if (seconds := time.perf_counter() - start) >= 1:
        print(f"{what:12} {seconds:.1f} s")


def _say_dropped(what: str, documents: int, dropped: dict[str, int]) -> None:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in dropped.items() if count)
    print(f"{what:12} {sum(dropped.values()):,} of {documents:,} documents{f' ({kinds})' if kinds else ''}")


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
