"""A tokenizer of ours as a folder of transformers has it: tokenizer.json, and what its special tokens are called."""

import json
import shutil
from pathlib import Path
from typing import Any

from fmjax.core.errors import ConfigError, UserError, extra
from fmjax.data import tokenizers
from fmjax.data.byte_level import HUGGING_FACE, PROBE
from fmjax.data.specials import WithSpecials
from fmjax.data.tokenizer import SENTINEL, Tokenizer

SETTINGS = "tokenizer_config.json"
FILES = (HUGGING_FACE, SETTINGS, "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json",
         "merges.txt", "tokenizer.model", "spiece.model", "chat_template.jinja", "generation_config.json")  # fmt: skip
PARTS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
NAMES = {"eos": "</s>", "bos": "<s>"}  # of ids that have none yet; the others are <pad>, <mask>, ...


def fits(tokenizer: Tokenizer | Path | None, module: Any, family: str) -> None:
    """Refuse weights with fewer ids than their tokenizer has.

    Raises:
      ConfigError: says how many there are; or a pad that RoBERTa would count wrongly.
    """
    if isinstance(tokenizer, Path):
        if not (tokenizer / HUGGING_FACE).is_file():
            return
        try:
            tokenizer = tokenizers.load(str(tokenizer))
        except UserError:  # one that only transformers can read is copied as it is
            return
    if tokenizer is None:
        return
    if tokenizer.vocab > module.vocab:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab} ids and the model {module.vocab}: they do not belong together"
        )
    pad = module.first_position - 1
    if family == "roberta" and tokenizer.special.get("pad", pad) != pad:
        raise ConfigError(
            f"transformers counts RoBERTa's positions over what is not the id {pad}, and this tokenizer's pad is "
            f"{tokenizer.special['pad']}: train with first_position={tokenizer.special['pad'] + 1}"
        )


def write(folder: Path, tokenizer: Tokenizer | Path | None, module: Any) -> str | None:
    """Write the tokenizer into a folder, or copy that of another one; what is missing, in words."""
    if isinstance(tokenizer, Path):
        there = [name for name in FILES if (tokenizer / name).is_file()]
        for name in there:
            shutil.copyfile(tokenizer / name, folder / name)
        return None if any("token" in n or "vocab" in n for n in there) else f"none, since {tokenizer} has none"
    if tokenizer is None:
        return "none, since the run's data has none"
    made = as_library(tokenizer)
    if made is None:
        tokenizer.save(folder)
        return f"saved for fmjax only: AutoTokenizer cannot read a {tokenizer.kind} tokenizer"
    (folder / HUGGING_FACE).write_text(made.to_str(pretty=True), encoding="utf-8")
    names = {part: made.id_to_token(tokenizer.special[part]) for part in PARTS if part in tokenizer.special}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    settings |= {f"{part}_token": name for part, name in names.items() if name}
    if getattr(module, "position", "") in ("learned", "rotary"):
        settings["model_max_length"] = module.length
    if sentinels := [made.id_to_token(i) for i in tokenizer.sentinels]:
        settings["additional_special_tokens"] = sentinels
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return None


def as_library(tokenizer: Tokenizer) -> Any:
    """A `tokenizers.Tokenizer` that gives the same ids, or None when there is none."""
    library = extra("tokenizers", "text")
    if isinstance(tokenizer, WithSpecials):
        made = as_library(tokenizer.inner)
        if made is None:
            return None
        fresh = tokenizer.vocab - tokenizer.inner.vocab - len(tokenizer.added)
        names = [NAMES.get(part, f"<{part}>") for part in tokenizer.added]
        made.add_special_tokens(names + [SENTINEL.format(n) for n in range(fresh)])
    elif isinstance(tokenizer, tokenizers.Bytes):
        made = _bytes(library)
    elif isinstance(tokenizer, tokenizers.Characters):
        made = _characters(library, tokenizer)
    elif hasattr(tokenizer, "source"):
        made = library.Tokenizer.from_str(tokenizer.source)
    else:
        return None
    return made if _alike(made, tokenizer) else None


def _alike(made: Any, tokenizer: Tokenizer) -> bool:
    text = PROBE
    if isinstance(tokenizer, tokenizers.Characters):
        text = tokenizer.spec["alphabet"]
    elif isinstance(tokenizer, WithSpecials):
        return made.get_vocab_size() == tokenizer.vocab
    made.encode_special_tokens = True  # as ours reads text; what is saved finds the special tokens in it
    ids = made.encode(text, add_special_tokens=False).ids
    made.encode_special_tokens = False
    return ids == tokenizer.encode(text).tolist()


def _bytes(library: Any) -> Any:
    """Every byte a piece and nothing merged; 256 ends a document."""
    # The library's letter for a byte: printable ones are themselves, the others lie above.
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    vocab = {chr(b) if b in shown else chr(next(others)): b for b in range(256)}
    made = library.Tokenizer(library.models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = library.decoders.ByteLevel()
    made.add_special_tokens(["<|endoftext|>"])
    return made


def _characters(library: Any, tokenizer: Tokenizer) -> Any:
    vocab = {letter: i for i, letter in enumerate(tokenizer.spec["alphabet"])}
    made = library.Tokenizer(library.models.WordLevel(vocab=vocab))
    made.pre_tokenizer = library.pre_tokenizers.Split(library.Regex(r"[\s\S]"), "isolated")
    made.decoder = library.decoders.Fuse()
    return made
