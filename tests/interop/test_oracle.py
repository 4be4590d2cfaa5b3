"""Against transformers: the same logits from the same folder, and from what is saved back; the tensors bit for bit.

Needs the extra `oracle`; without it the goldens of test_goldens.py say the same about one model a family.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from oracles import CASES, ids, make, theirs  # noqa: E402
from tiny_models import difference, equal, ours  # noqa: E402

from fmjax.core.config import build  # noqa: E402
from fmjax.interop import hugging_face  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn of what is theirs


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    model = make(request.param, folder / "theirs")
    return request.param, folder, model


def test_logits_agree_and_what_is_saved_is_what_was_read(case):
    name, folder, model = case
    batch = ids(name, model.config)
    expected = theirs(model, batch)
    module, params = hugging_face.load(folder / "theirs")
    assert hugging_face.family_of(module).name == model.config.model_type
    assert difference(ours(module, params, batch), expected, batch) <= 2e-5

    hugging_face.save(folder / "ours", module, params)
    again, info = type(model).from_pretrained(folder / "ours", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    np.testing.assert_array_equal(theirs(again, batch), expected)


def test_shards_and_bfloat16_load_in_transformers(case):
    name, folder, model = case
    module, params = hugging_face.load(folder / "theirs")
    hugging_face.save(folder / "shards", module, params, dtype="bfloat16", shard_size="5KB")
    assert len(list((folder / "shards").glob("*.safetensors"))) > 1
    again = type(model).from_pretrained(folder / "shards")
    assert again.dtype == torch.bfloat16
    after = again.state_dict()
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(tensor.to(torch.bfloat16), after[key]), key
    batch = ids(name, model.config)
    widened = type(model).from_pretrained(folder / "shards", dtype=torch.float32)
    half, weights = hugging_face.load(folder / "shards")
    assert half == build(hugging_face.describe(folder / "theirs"))
    assert difference(ours(half, weights, batch), theirs(widened, batch), batch) <= 2e-5


def test_what_transformers_shards_is_read(case):
    _, folder, model = case
    model.save_pretrained(folder / "split", max_shard_size="5KB")
    params, whole = (hugging_face.load(folder / name)[1] for name in ("split", "theirs"))
    assert equal(params, whole)
