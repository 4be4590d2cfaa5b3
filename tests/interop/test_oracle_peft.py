"""Against peft: it loads what is written here, and what it writes is read, to the same logits and weights."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
library = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from oracles import ids, make, theirs  # noqa: E402
from test_peft import saved  # noqa: E402
from tiny_models import difference, ours  # noqa: E402

from fmjax.adapters.low_rank import dora, lora  # noqa: E402
from fmjax.core.trees import flatten  # noqa: E402
from fmjax.interop import hugging_face  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and peft warn of what is theirs
TARGETS = {"gpt2": ["c_attn", "c_fc"], "llama": ["q_proj", "o_proj", "gate_proj"], "bert": ["query", "dense"]}


@pytest.fixture(scope="module", params=["gpt2", "llama", "bert"])
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, make(request.param, folder / "base")


@pytest.mark.parametrize("adapter", [lora(rank=2, alpha=3.0), dora(rank=2)], ids=["lora", "dora"])
def test_peft_says_what_our_merged_weights_say(base, tmp_path, adapter):
    name, folder, model = base
    merged = saved(tmp_path / "adapter", folder / "base", adapter)
    module, _ = hugging_face.load(folder / "base")
    plain = type(model).from_pretrained(folder / "base")
    adapted = library.PeftModel.from_pretrained(plain, tmp_path / "adapter")
    batch = ids(name, model.config)
    expected = theirs(adapted.merge_and_unload().eval(), batch)
    assert difference(ours(module, merged, batch), expected, batch) <= 1e-4 * max(1, np.abs(expected).max())
    assert difference(ours(module, merged, batch), theirs(model, batch), batch) > 1e-2


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["lora", "rslora", "dora"])
def test_what_peft_writes_is_read(base, tmp_path, options):
    name, folder, model = base
    plain = type(model).from_pretrained(folder / "base")
    config = library.LoraConfig(r=3, lora_alpha=5, target_modules=TARGETS[name], init_lora_weights=False, **options)
    torch.manual_seed(0)
    adapted = library.get_peft_model(plain, config)
    adapted.save_pretrained(tmp_path / "adapter")
    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    want = flatten(hugging_face.load(tmp_path / "merged")[1])
    for address, x in flatten(hugging_face.load(tmp_path / "adapter")[1]).items():
        np.testing.assert_allclose(x, want[address], rtol=1e-4, atol=1e-5, err_msg=address)
