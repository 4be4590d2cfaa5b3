"""What transformers said of a tiny model of each family, we say too; and its tensors come back bit for bit.

make_goldens.py wrote them, padding and the ids of sentences included.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_models import difference, ours

from fmjax.interop import hugging_face

GOLDENS = sorted((Path(__file__).parent / "goldens").iterdir())


@pytest.mark.parametrize("folder", GOLDENS, ids=lambda p: p.name)
def test_logits_agree_and_tensors_come_back(folder, tmp_path):
    batch = load_file(folder / "said.safetensors")
    module, params = hugging_face.load(folder)
    said = ours(module, params, batch)
    assert difference(said, batch["expected"], batch) <= 2e-5
    assert np.abs(batch["expected"]).max() > 0.1

    hugging_face.save(tmp_path / "back", module, params)
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "back" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[k].view(np.uint32), after[k].view(np.uint32)) for k in before)
    old, new = (json.loads((f / "config.json").read_text()) for f in (folder, tmp_path / "back"))
    assert (old["model_type"], old["architectures"]) == (new["model_type"], new["architectures"])
    assert hugging_face.describe(tmp_path / "back") == hugging_face.describe(folder)
