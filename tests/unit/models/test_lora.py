"""Adapters: what they are put on, that they begin as nothing, and that merged, in a folder and in plain peft they are
the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForTextRecognition, LlamaConfig, VisionEncoderDecoderModel

from tdtrain.models.causal import CausalModule
from tdtrain.models.load import is_trocr, load_reader
from tdtrain.models.lora import Adapters, adapt, part_of, resolve
from tdtrain.models.reader import Reader
from tdtrain.options import Lora
from tdtrain.train.engine import parameter_groups
from tests.models_small import draw_line, small_trocr_folder, timetable_texts

VARIANTS = (Lora(rank=4), Lora(rank=4, rslora=True), Lora(rank=4, dora=True), Lora(rank=2, bias="lora_only"))

LLAMA = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("bases")
    return {"trocr": str(small_trocr_folder(folder / "trocr", "small", ctc=True)), "ppocr": "ppocrv6-small"}


def probabilities(reader: Reader) -> Tensor:
    """B,T,V of some lines, teacher-forced where it writes token by token."""
    texts = timetable_texts(3)
    arrays = reader.pixels.collate([reader.pixels.resize(draw_line(text)) for text in texts])
    batch = {key: torch.from_numpy(value) for key, value in arrays.items()}
    labels = torch.from_numpy(reader.codec.encode(texts)) if reader.kind == "autoregressive" else None
    reader.module.eval()
    with torch.no_grad():
        values = reader.pixels.normalize(batch["pixels"], batch["widths"], torch.float32)
        return reader.module(values, labels=labels).logits.softmax(-1)


def shaken(reader: Reader, lora: Lora, by: float = 0.02) -> Adapters:
    """Adapters that were, as it were, trained: B is no longer zero."""
    adapters = adapt(reader.module, reader.name, lora)
    with torch.no_grad():
        for p in reader.module.parameters():
            if p.requires_grad:
                p.add_(by * torch.randn_like(p))
    return adapters


@pytest.mark.parametrize(
    ("family", "asked", "count"),
    [
        ("trocr", ["query", "key", "value"], [3, 3, 3]),  # encoder, decoder, cross-attention
        ("trocr", ["q_proj"], [3]),
        ("trocr", ["decoder"], [10]),  # two attentions of four, and two of the feed-forward part
        ("ppocr", ["query"], [2]),  # fused
        ("ppocr", ["channel_conv1", "fc1"], [13, 2]),
        ("ppocr", ["head.head"], [1]),
    ],
)
def test_names_are_found_in_the_model_as_it_is(
    family: str, asked: list[str], count: list[int], bases: dict[str, str]
) -> None:
    found = resolve(part_of(load_reader(bases[family]).module), asked, family)
    assert [len(layers) for layers in found.values()] == count


def test_all_is_all_but_the_head(bases: dict[str, str]) -> None:
    for name in bases.values():
        part = part_of(load_reader(name).module)
        found = resolve(part, ["all"], name)["all"]
        assert part.head not in found and len(found) > 10
        assert not any("pooler" in layer or "token_conv" in layer for layer in found)


@pytest.mark.parametrize(("family", "asked"), [("trocr", "qkv"), ("trocr", "output_projection"), ("ppocr", "c_attn")])
def test_a_name_that_means_nothing_is_refused_with_those_that_do(
    family: str, asked: str, bases: dict[str, str]
) -> None:
    listed = r"q_proj \(3\)" if family == "trocr" else r"channel_conv1 \(13\)"
    with pytest.raises(ValueError, match=rf"target_modules={asked} is no linear layer.*{listed}"):
        adapt(load_reader(bases[family]).module, family, Lora(target_modules=("fc1", asked)))


@pytest.mark.parametrize("family", ["trocr", "ppocr"])
@pytest.mark.parametrize("lora", VARIANTS)
def test_an_adapted_reader_begins_as_its_base(family: str, lora: Lora, bases: dict[str, str]) -> None:
    reader = load_reader(bases[family])
    before = probabilities(reader)
    adapt(reader.module, reader.name, lora.model_copy(update={"target_modules": ("all",)}))
    torch.testing.assert_close(probabilities(reader), before, rtol=0, atol=0 if not lora.dora else 1e-5)


@pytest.mark.parametrize("family", ["trocr", "ppocr"])
def test_only_the_adapters_are_trained(family: str, bases: dict[str, str]) -> None:
    reader = load_reader(bases[family])
    shapes = dict((name, layer.weight.shape) for name, layer in part_of(reader.module).model.named_modules()
                  if hasattr(layer, "weight") and layer.weight is not None)  # fmt: skip
    adapters = adapt(reader.module, reader.name, Lora(rank=5, target_modules=("query", "fc1")))
    chosen = [name for layers in adapters.layers.values() for name in layers]
    assert adapters.num_trained == sum(5 * (shapes[name][0] + shapes[name][1]) for name in chosen)
    trained = [name for name, p in reader.module.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * len(chosen) and all("lora_" in name for name in trained)
    assert f"query: {len(adapters.layers['query'])}" in adapters.words()


@pytest.mark.parametrize(
    ("scaling", "scale"),
    [
        ({"alpha": 32}, 32 / 4),
        ({"alpha": 32, "rslora": True}, 32 / 4**0.5),
        ({"alpha_over_rank": 3}, 3),
        ({"alpha_over_rank": 3, "rslora": True}, 3 * 4**0.5),
    ],
)
def test_an_adapted_layer_is_its_formula(scaling: dict, scale: float, bases: dict[str, str]) -> None:
    reader = load_reader(bases["trocr"])
    layer = "decoder.model.decoder.layers.0.fc1"
    weight = part_of(reader.module).model.get_submodule(layer).weight.detach().double().clone()
    shaken(reader, Lora(rank=4, target_modules=("fc1",), **scaling))
    adapted = part_of(reader.module).model.get_submodule(layer)
    a, b = (getattr(adapted, f"lora_{side}")["default"].weight.detach().double() for side in "AB")
    x = torch.randn(7, weight.shape[1])
    expected = x.double() @ (weight + scale * b @ a).T + adapted.base_layer.bias.detach().double()
    torch.testing.assert_close(adapted(x).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["trocr", "ppocr"])
@pytest.mark.parametrize("lora", VARIANTS)
def test_merged_and_in_plain_peft_it_reads_as_it_does_adapted(
    family: str, lora: Lora, bases: dict[str, str], tmp_path: Path
) -> None:
    reader = load_reader(bases[family])
    base = probabilities(reader)
    everything = lora.model_copy(update={"target_modules": ("all",)})
    adapters = shaken(reader, everything, by=0.02 if family == "trocr" else 0.002)
    expected = probabilities(reader)
    assert (expected / base - 1).abs().max() > 1e-2
    adapters.save(tmp_path / "adapter", reader.module.state_dict())
    loaded = load_reader(str(tmp_path / "adapter"))
    assert is_trocr(str(tmp_path / "adapter")) == (family == "trocr")
    torch.testing.assert_close(probabilities(loaded), expected, rtol=0, atol=1e-5)
    loaded.save(tmp_path / "merged")
    torch.testing.assert_close(probabilities(load_reader(str(tmp_path / "merged"))), expected, rtol=0, atol=1e-5)
    plain_class = VisionEncoderDecoderModel if family == "trocr" else AutoModelForTextRecognition
    load_reader(bases[family]).save(tmp_path / "base")
    plain = PeftModel.from_pretrained(plain_class.from_pretrained(tmp_path / "base"), str(tmp_path / "adapter"))
    shell = load_reader(bases[family])
    setattr(shell.module, part_of(shell.module).attribute, plain.get_base_model())
    torch.testing.assert_close(probabilities(shell), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("lora", VARIANTS)
def test_in_bf16_no_bit_depends_on_casts_that_are_spared(lora: Lora) -> None:
    def gradients(cast: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(LLAMA, dtype=torch.bfloat16)
        module = CausalModule(model)
        adapt(module, "llama", lora.model_copy(update={"target_modules": ("q_proj", "up_proj")}))
        taken = []
        for layer in model.modules():
            if cast and hasattr(layer, "cast_input_dtype_enabled"):
                layer.cast_input_dtype_enabled = True
            if "lora_A" in dict(layer.named_children()):
                layer.lora_A["default"].register_forward_pre_hook(lambda _, given: taken.append(given[0].dtype))
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=torch.arange(24)[None]).logits.float().square().mean()
        loss.backward()
        assert set(taken) == {torch.float32 if cast or lora.dora else torch.bfloat16}
        return [loss.detach(), *(p.grad for p in module.parameters() if p.grad is not None)]

    assert all(torch.equal(one, other) for one, other in zip(gradients(True), gradients(False), strict=True))


def test_lora_plus_gives_b_a_learning_rate_of_its_own(bases: dict[str, str]) -> None:
    reader = load_reader(bases["trocr"])
    adapters = adapt(reader.module, reader.name, Lora(rank=2))
    slow, fast = parameter_groups(reader.module, 0.1, lora_plus_ratio=16)
    assert (slow["lr_ratio"], fast["lr_ratio"]) == (1, 16)
    assert sum(p.numel() for p in [*slow["params"], *fast["params"]]) == adapters.num_trained
    assert all(not p.any() for p in fast["params"]) and all(p.any() for p in slow["params"])


def llama_3_8b() -> CausalModule:
    """The published architecture without any weight."""
    config = LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        vocab_size=128256, max_position_embeddings=8192, rope_theta=500000.0, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        return CausalModule(AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16))


def test_llama_3_8b_has_27_million_adapter_weights_at_rank_32() -> None:
    module = llama_3_8b()
    lora = Lora(rank=32, alpha=64, target_modules=("q_proj", "k_proj", "v_proj", "o_proj"))
    adapters = adapt(module, "llama-3-8b", lora)
    assert adapters.num_trained == 27_262_976
    assert adapters.num_parameters - adapters.num_trained == 8_030_261_248
    with pytest.raises(ValueError, match=r"target_modules=lm_head is no .*; it has q_proj \(32\)"):
        adapt(llama_3_8b(), "llama-3-8b", Lora(target_modules=("lm_head",)))
