"""Prompts end where answers begin; packed documents see themselves alone, and are what they are apart."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
)

from tdtrain.models.causal import (
    INSTRUCTION,
    CausalModule,
    Prompter,
    base_of,
    check_packed,
    is_quantized,
    load_causal,
    outline,
)
from tdtrain.models.lora import adapt
from tdtrain.models.packed import PACKED
from tdtrain.options import Lora

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 64}  # fmt: skip


def tiny(config: type[PreTrainedConfig], attention: str, **changes: object) -> CausalModule:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config(**SIZES, **changes), attn_implementation=attention)
    return CausalModule(model).eval()


@pytest.fixture(scope="module")
def smol() -> tuple[CausalModule, Prompter]:
    return load_causal("smollm2-135m", torch.float32)


@pytest.mark.parametrize(
    ("config", "changes"),
    [(LlamaConfig, {}), (MistralConfig, {"sliding_window": None}), (MistralConfig, {"sliding_window": 5})],
)
def test_packed_documents_are_what_they_are_apart(config: type[PreTrainedConfig], changes: dict[str, object]) -> None:
    lengths = [7, 1, 12]
    tokens = torch.randint(0, 96, (sum(lengths),))
    plain = tiny(config, "eager", **changes)
    apart = [plain.model.base_model(input_ids=part[None]).last_hidden_state[0] for part in tokens.split(lengths)]
    module = tiny(config, PACKED, **changes)
    check_packed(module, "tiny")
    together = module.hidden_states(tokens, lengths)
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "changes"),
    [(Gemma2Config, {"head_dim": 8}), (GraniteConfig, {"logits_scaling": 4.0})],
    ids=["caps", "scales"],
)
def test_models_that_packing_does_not_follow_are_refused(
    config: type[PreTrainedConfig], changes: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=r"model_name=odd: .* in a way that training on packed documents does not"):
        check_packed(tiny(config, PACKED, **changes), "odd")


def test_an_outline_has_all_but_the_numbers(smol: tuple[CausalModule, Prompter]) -> None:
    module, prompter = outline("smollm2-135m")
    whole, told = smol
    assert {weight.device.type for weight in module.parameters()} == {"meta"}
    assert [(name, weight.shape) for name, weight in module.named_parameters()] == [
        (name, weight.shape) for name, weight in whole.named_parameters()
    ]
    assert prompter.prompt("page") == told.prompt("page")


def stored(config: PreTrainedConfig, smol: tuple[CausalModule, Prompter], folder: Path) -> str:
    """A model of that kind in a folder, weights at random."""
    smol[1].tokenizer.save_pretrained(folder)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    "config",
    [
        GraniteConfig(**SIZES, logits_scaling=4.0),
        Gemma2Config(**SIZES, head_dim=8, attn_logit_softcapping=None, final_logit_softcapping=30.0),
    ],
    ids=["scales", "caps"],
)
def test_an_outline_of_a_model_that_packing_does_not_follow_is_refused(
    config: PreTrainedConfig, smol: tuple[CausalModule, Prompter], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="training on packed documents does not"):
        outline(stored(config, smol, tmp_path))


def test_an_outline_without_weights_is_refused(smol: tuple[CausalModule, Prompter], tmp_path: Path) -> None:
    smol[1].tokenizer.save_pretrained(tmp_path)
    LlamaConfig(**SIZES).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is no folder with a causal language model"):
        outline(str(tmp_path))


def test_an_outline_is_of_the_text_of_a_model_that_also_sees(
    smol: tuple[CausalModule, Prompter], tmp_path: Path
) -> None:
    text = SIZES | {"head_dim": 8, "final_logit_softcapping": None, "attn_logit_softcapping": None}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    config = Gemma3Config(text_config=Gemma3TextConfig(**text).to_dict(), vision_config=vision, mm_tokens_per_image=4)
    assert outline(stored(config, smol, tmp_path))[0].head.weight.is_meta


def test_an_outline_of_quantized_weights_needs_none(smol: tuple[CausalModule, Prompter], tmp_path: Path) -> None:
    smol[1].tokenizer.save_pretrained(tmp_path)
    config = LlamaConfig(**SIZES, architectures=["LlamaForCausalLM"])
    config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    config.save_pretrained(tmp_path)
    module, _ = outline(str(tmp_path))
    adapters = adapt(module, "packed", Lora(rank=2, alpha=4, target_modules=("q_proj",), dora=True))
    assert len(adapters.layers["q_proj"]) == 2 and is_quantized(config)


def test_adapters_on_adapters_are_for_one_model(tmp_path: Path) -> None:
    for name, base in (("a", "smollm2-135m"), ("b", str(tmp_path / "a"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    assert base_of(str(tmp_path / "b")) == base_of("smollm2-135m") == "smollm2-135m"


def test_a_document_does_not_see_its_neighbours_and_sends_them_no_gradient() -> None:
    module = tiny(LlamaConfig, PACKED)
    tokens = torch.randint(0, 96, (15,))
    other = tokens.clone()
    other[:6] = torch.randint(0, 96, (6,))
    first, second = (module.hidden_states(ids, [6, 9]) for ids in (tokens, other))
    assert torch.equal(first[6:], second[6:]) and not torch.equal(first[:6], second[:6])
    tokens[:6] = 95
    tokens[6:] %= 95
    module.hidden_states(tokens, [6, 9])[6:].square().sum().backward()
    assert not module.model.get_input_embeddings().weight.grad[95].any()


def test_gradient_checkpointing_changes_no_gradient() -> None:
    grads = []
    for checkpointed in (False, True):
        module = tiny(LlamaConfig, PACKED).train()
        if checkpointed:
            module.model.gradient_checkpointing_enable()
        module.hidden_states(torch.arange(20) % 96, [8, 12]).square().sum().backward()
        grads.append([p.grad for p in module.parameters() if p.grad is not None])
    for plain, again in zip(*grads, strict=True):
        torch.testing.assert_close(plain, again)


def test_the_answer_follows_the_prompt_and_is_ended(smol: tuple[CausalModule, Prompter]) -> None:
    _, prompter = smol
    example = prompter.example("a", "8:00 Math", '{"timeblocks":[]}')
    decode = prompter.tokenizer.decode
    assert example.tokens[: example.num_prompt] == tuple(prompter.prompt("8:00 Math"))
    assert decode(example.tokens[example.num_prompt :]) == '{"timeblocks":[]}<|im_end|>'
    assert decode(example.tokens[: example.num_prompt]).endswith(
        f"{INSTRUCTION}8:00 Math<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompter.end_ids == [prompter.tokenizer.eos_token_id]


@pytest.mark.parametrize(
    ("template", "before", "end"),
    [
        ("{% for m in messages %}[{{ m.role }}] {{ m.content }}</s>{% endfor %}", "[assistant] ", "</s>"),
        (
            "{% for m in messages %}<{{ m.role }}>{% if loop.last %}<think></think>\n{% endif %}{{ m.content }}<end>\n"
            "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
            "<assistant><think></think>\n",
            "<end>",
        ),
    ],
    ids=["a space", "an empty thought"],
)
def test_a_prompt_is_all_that_comes_before_the_answer(
    smol: tuple[CausalModule, Prompter], template: str, before: str, end: str
) -> None:
    tokenizer = copy.deepcopy(smol[1].tokenizer)
    tokenizer.chat_template = template
    example = Prompter(tokenizer).example("a", "8:00 Math", "{}")
    assert tokenizer.decode(example.tokens[: example.num_prompt]).endswith(before)
    assert tokenizer.decode(example.tokens[example.num_prompt :]) == "{}" + end
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}{% endfor %}"
    with pytest.raises(ValueError, match="leaves out what the assistant says"):
        Prompter(tokenizer)


def test_the_packaged_model_writes_english(smol: tuple[CausalModule, Prompter]) -> None:
    """The converted weights are real ones: what comes after a common phrase is likely."""
    module, prompter = smol
    tokens = torch.tensor(prompter.tokenizer("The capital of France is Paris")["input_ids"])
    with torch.no_grad():
        probability = module.head(module.hidden_states(tokens, [len(tokens)])).softmax(-1)
    assert prompter.tokenizer.decode(probability[-2].argmax()) == " Paris"


def test_no_model_and_no_template_are_said_so(tmp_path: Path, smol: tuple[CausalModule, Prompter]) -> None:
    with pytest.raises(ValueError, match="is no folder with a causal language model"):
        load_causal(str(tmp_path / "nothing"))
    smol[0].model.save_pretrained(tmp_path / "bare")
    tokenizer = smol[1].tokenizer
    template, tokenizer.chat_template = tokenizer.chat_template, None
    tokenizer.save_pretrained(tmp_path / "bare")
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match="has no chat template"):
        load_causal(str(tmp_path / "bare"))


def test_attention_does_not_plan_anew_for_every_length() -> None:
    assert not torch.backends.cuda.cudnn_sdp_enabled()  # 0.12 s a new length on Hopper (benchmarks/LOG.md)
