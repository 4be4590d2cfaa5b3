"""Makes goldens/: a tiny model of each family as transformers saves it, and what it says of a few tokens.

Run it where torch and transformers are (the extra `oracle`): python tests/interop/make_goldens.py [CASE ...]
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from oracles import ids, make, theirs
from safetensors.numpy import save_file

FOLDER = Path(__file__).parent / "goldens"
CASES = ("gpt2", "llama_llama3", "llama_yarn", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_linear",
         "bert", "bert_bare", "roberta", "t5",
         "t5_v11")  # fmt: skip
OURS = {"_name_or_path", "transformers_version"}


def main(cases: list[str]) -> None:
    """Write the folders of these cases, or of all."""
    for case in cases or CASES:
        folder = FOLDER / case
        shutil.rmtree(folder, ignore_errors=True)
        model = make(case, folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in OURS}, indent=1))
        batch = ids(case, model.config, rows=2, length=16)
        batch["expected"] = theirs(model, batch)
        save_file({k: np.ascontiguousarray(v) for k, v in batch.items()}, folder / "said.safetensors")
        print(case, sum(path.stat().st_size for path in folder.iterdir()))


if __name__ == "__main__":
    main(sys.argv[1:])
