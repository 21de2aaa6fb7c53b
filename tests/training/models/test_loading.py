"""No tensor that did not come from the files: what does not fit is refused in one line.

By the headers alone, for every family; layouts that transformers renames stay fine.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.core.recipe import UserError
from training.config import LoraSection
from training.models.loading import load_model, refuse_spoilt
from training.models.vlm import check_model, encode_prompt, load_vlm
from training.trainer.policy import add_adapters

Tensors = dict[str, torch.Tensor]
WEIGHTS = "model.safetensors"
PROJECTORS = ("multi_modal_projector", "merger")


def changed(source: Path, target: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """A copy of a model whose file holds other tensors."""
    shutil.copytree(source, target)
    save_file(change(load_file(source / WEIGHTS)), target / WEIGHTS, {"format": "pt"})
    return target


def configured(source: Path, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of a model whose config.json says something else."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    change(config)
    (target / "config.json").write_text(json.dumps(config))
    return target


def refusal(folder: Path, *, trained: bool = False) -> str:
    """What the check by headers says, on one line."""
    with pytest.raises(UserError) as raised:
        check_model(folder, trained=trained)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + name: value for name, value in tensors.items()}


def without(*parts: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {
        name: value for name, value in tensors.items() if not any(part in name for part in parts)
    }


def of_the_llava_code(tensors: Tensors) -> Tensors:
    """The layout of the original LLaVA code, in which the tower is kept apart."""
    names = {
        "model.multi_modal_projector.linear_1": "model.mm_projector.0",
        "model.multi_modal_projector.linear_2": "model.mm_projector.2",
        "model.language_model.": "model.",
    }
    renamed = {}
    for name, value in as_now(tensors).items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        if "vision_tower" not in name:
            renamed[name] = value
    return renamed


def as_now(tensors: Tensors) -> Tensors:
    """A LLaVA in the layout of its class in transformers 5."""
    names = {
        "language_model.lm_head.": "lm_head.",
        "language_model.model.": "model.language_model.",
        "multi_modal_projector.": "model.multi_modal_projector.",
        "vision_tower.": "model.vision_tower.",
    }
    starts = {
        name: next((start for start in names if name.startswith(start)), "") for name in tensors
    }
    return {
        names.get(start, "") + name.removeprefix(start): tensors[name]
        for name, start in starts.items()
    }


def is_llava(folder: Path) -> bool:
    return json.loads((folder / "config.json").read_text())["model_type"] == "llava"


def num_tensors(folder: Path) -> int:
    return len(load_file(folder / WEIGHTS))


def test_a_whole_model_passes_and_its_shapes_are_those_of_the_numbers(tiny_model: Path) -> None:
    check_model(tiny_model, trained=True)
    shapes = load_model(tiny_model, device="meta").state_dict()
    numbers = load_model(tiny_model).state_dict()
    assert {name: value.shape for name, value in shapes.items()} == {
        name: value.shape for name, value in numbers.items()
    }
    assert all(value.is_meta for value in shapes.values())


def test_layouts_that_transformers_renames_stay_fine(tiny_model: Path, tmp_path: Path) -> None:
    for number, change in enumerate((as_now, dict)):
        folder = changed(tiny_model, tmp_path / f"{number}", change)
        check_model(folder, trained=True)
        ours, theirs = (load_model(path).state_dict() for path in (folder, tiny_model))
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_old_buffers_in_the_file_are_no_fault(vicuna_llava: Path, tmp_path: Path) -> None:
    buffers = {
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "vision_tower.vision_model.embeddings.position_ids": torch.arange(5)[None],
    }
    check_model(changed(vicuna_llava, tmp_path / "m", lambda t: {**t, **buffers}), trained=True)


def test_a_tied_output_layer_is_no_fault_and_one_of_its_own_is_needed(
    tiny_model: Path, tmp_path: Path
) -> None:
    def ties(config: dict[str, Any]) -> None:
        config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True

    bare = changed(tiny_model, tmp_path / "bare", without("lm_head"))
    assert f"1 of {num_tensors(tiny_model)} tensors missing (lm_head.weight)" in refusal(bare)
    tied = configured(bare, tmp_path / "tied", ties)
    check_model(tied, trained=True)
    model = load_model(tied)
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_a_missing_projector_is_named(tiny_model: Path, tmp_path: Path) -> None:
    folder = changed(tiny_model, tmp_path / "m", without(*PROJECTORS))
    missing = num_tensors(tiny_model) - num_tensors(folder)
    said = refusal(folder)
    assert f"{missing} of {num_tensors(tiny_model)} tensors missing (" in said
    assert any(part in said for part in PROJECTORS)
    assert said.endswith("; download it again, or save it again with save_pretrained")
    with pytest.raises(UserError, match=f"{missing} of "):
        load_vlm(folder)


@pytest.mark.parametrize("prefix", ["base_model.model.", "module.", "_orig_mod.", "thing."])
def test_names_with_a_prefix_are_refused_with_what_wrote_them(
    tiny_model: Path, tmp_path: Path, prefix: str
) -> None:
    total = num_tensors(tiny_model)
    said = refusal(changed(tiny_model, tmp_path / "m", prefixed(prefix)))
    assert f"{total} of {total} tensors missing" in said
    assert f"{total} unexpected ({prefix}" in said
    if prefix == "base_model.model.":
        assert "merge_and_unload()" in said


def test_the_layout_of_the_llava_code_is_refused_with_where_to_find_another(
    tiny_llava: Path, tmp_path: Path
) -> None:
    said = refusal(changed(tiny_llava, tmp_path / "m", of_the_llava_code))
    assert "llava-hf on the Hub" in said
    assert "unexpected" in said


def test_a_tensor_that_no_class_has_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    said = refusal(changed(tiny_model, tmp_path / "m", lambda t: {**t, "head": torch.ones(2)}))
    assert "1 unexpected (" in said


def test_shapes_other_than_config_says_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    tower = configured(
        tiny_model, tmp_path / "m", lambda c: c["vision_config"].update(intermediate_size=48)
    )
    assert "of another shape than config.json says (" in refusal(tower)
    words = configured(
        tiny_model, tmp_path / "w", lambda c: c["text_config"].update(vocab_size=999)
    )
    assert "2 of another shape than config.json says (lm_head.weight, " in refusal(words)


def test_a_model_with_another_number_of_layers_is_refused(
    vicuna_llava: Path, tmp_path: Path
) -> None:
    for layers, words in ((1, "9 unexpected ("), (3, "9 of 73 tensors missing (")):
        folder = configured(
            vicuna_llava,
            tmp_path / str(layers),
            lambda c, layers=layers: c["text_config"].update(num_hidden_layers=layers),
        )
        assert words in refusal(folder)


def sharded(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    (target / WEIGHTS).unlink()
    load_model(source).save_pretrained(target, max_shard_size="40KB")
    return target


def test_files_that_are_cut_off_empty_or_gone_are_refused(
    vicuna_llava: Path, tmp_path: Path
) -> None:
    whole = sharded(vicuna_llava, tmp_path / "whole")
    check_model(whole, trained=True)
    second = sorted(whole.glob("model-*"))[1]
    count = len(list(whole.glob("model-*")))
    held = second.read_bytes()
    second.unlink()
    assert f"1 of the {count} files that model.safetensors.index.json names" in refusal(whole)
    assert second.name in refusal(whole)
    for left in (held[:-1], held[:100], held[:4], b""):
        second.write_bytes(left)
        assert f"{second}: {len(left)} bytes that are no whole safetensors file" in (
            refusal(whole).replace(",", "") if len(left) > 999 else refusal(whole)
        )
    (whole / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    assert "expected a weight_map of tensors to files" in refusal(whole)


def test_weights_in_another_format_are_refused(vicuna_llava: Path, tmp_path: Path) -> None:
    shutil.copytree(vicuna_llava, tmp_path / "m")
    (tmp_path / "m" / WEIGHTS).unlink()
    assert "found none; save the model with save_pretrained" in refusal(tmp_path / "m")
    torch.save(load_file(vicuna_llava / WEIGHTS), tmp_path / "m" / "pytorch_model.bin")
    assert "found only pytorch_model.bin; save the model" in refusal(tmp_path / "m")


def test_numbers_that_are_none_are_refused_where_answers_would_be_made_of_them(
    vicuna_llava: Path, tmp_path: Path
) -> None:
    for name, number in (("nan", float("nan")), ("inf", float("-inf"))):

        def spoils(tensors: Tensors, number: float = number) -> Tensors:
            tensors["language_model.model.norm.weight"][3] = number
            return tensors

        folder = changed(vicuna_llava, tmp_path / name, spoils)
        with pytest.raises(UserError, match=r"1 of its tensors hold NaN or infinity \(model\.lang"):
            refuse_spoilt(folder, load_model(folder))
    refuse_spoilt(vicuna_llava, load_model(vicuna_llava))


def test_a_tokenizer_with_more_ids_than_the_embedding_has_rows_is_refused(
    vicuna_llava: Path, tmp_path: Path
) -> None:
    shutil.copytree(vicuna_llava, tmp_path / "m")
    file = tmp_path / "m" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["added_tokens"].append(
        {**tokenizer["added_tokens"][-1], "content": "<new>", "id": 700}
    )
    tokenizer["model"]["vocab"]["<new>"] = 700
    file.write_text(json.dumps(tokenizer))
    assert "its tokenizer has ids up to 700, its embedding 356 rows" in refusal(tmp_path / "m")


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "pip install gptqmodel"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "pip install optimum"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "pip install -U bitsandbytes"),
        ({"load_in_8bit": True}, "pip install -U bitsandbytes"),
        ({"quant_method": "compressed-tensors"}, "pip install compressed-tensors"),
        ({"quant_method": "hqq"}, "HQQ"),
        ({"quant_method": "unheard"}, "Unknown quantization type, got unheard"),
    ],
)
@pytest.mark.parametrize("place", ["top", "text_config"])
def test_quantized_weights_are_refused_before_the_start(
    vicuna_llava: Path, tmp_path: Path, settings: dict[str, Any], asked: str, place: str
) -> None:
    folder = configured(
        vicuna_llava,
        tmp_path / "m",
        lambda c: (c if place == "top" else c[place]).update(quantization_config=settings),
    )
    assert "neither they nor adapters on them are trained here" in refusal(folder, trained=True)
    said = refusal(folder)
    assert "its weights are quantized (" in said
    assert asked in said


def test_integers_without_a_word_on_how_they_came_about_are_refused(
    vicuna_llava: Path, tmp_path: Path
) -> None:
    def packs(tensors: Tensors) -> Tensors:
        return {k: v.to(torch.int8) if "q_proj.weight" in k else v for k, v in tensors.items()}

    assert "4 of its weights are stored as integers (" in refusal(
        changed(vicuna_llava, tmp_path / "m", packs)
    )


def test_code_that_a_model_brings_is_not_executed(
    vicuna_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda prompt="": asked.append(prompt) or "n")
    written = tmp_path / "written"
    code = f"open({str(written)!r}, 'w').write('ran')\n"
    classes = ("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor")
    for model_type in ("mine", "llava"):
        folder = configured(
            vicuna_llava,
            tmp_path / model_type,
            lambda c, t=model_type: c.update(
                model_type=t, auto_map=dict.fromkeys(classes, "mine.Mine")
            ),
        )
        (folder / "mine.py").write_text(code)
        for name, key in (
            ("processor_config.json", "AutoProcessor"),
            ("tokenizer_config.json", "AutoTokenizer"),
        ):
            stated = json.loads((folder / name).read_text())
            if model_type == "mine":
                stated |= {"processor_class": "Mine", "tokenizer_class": "Mine"}
            classes_of = ["mine.Mine", "mine.Mine"] if key == "AutoTokenizer" else "mine.Mine"
            (folder / name).write_text(json.dumps({**stated, "auto_map": {key: classes_of}}))
        for load in (load_vlm, lambda path: load_vlm(path, device="meta")):
            if model_type == "llava":  # of which transformers has the code
                load(folder)
                continue
            with pytest.raises(UserError, match="code of its own .+ never executed here"):
                load(folder)
    assert not written.exists()
    assert not asked


@pytest.fixture
def adapters(tiny_model: Path, tmp_path: Path) -> Path:
    """Adapters of rank 2 with numbers, on a base of each family."""
    vlm = load_vlm(tiny_model)
    add_adapters(vlm, LoraSection(rank=2))
    torch.manual_seed(0)
    for name, parameter in vlm.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    vlm.model.save_pretrained(tmp_path / "adapters")
    vlm.processor.save_pretrained(tmp_path / "adapters")
    return tmp_path / "adapters"


ADAPTERS = "adapter_model.safetensors"


def of_adapters(folder: Path, change: Callable[[Tensors], Tensors]) -> Path:
    save_file(change(load_file(folder / ADAPTERS)), folder / ADAPTERS, {"format": "pt"})
    return folder


def test_adapters_are_put_on_their_base_whole(adapters: Path, tiny_model: Path) -> None:
    from peft import PeftModel

    check_model(adapters, trained=False)
    ours = load_model(adapters)
    theirs = PeftModel.from_pretrained(load_model(tiny_model), adapters)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        logits = ours(input_ids=ids).logits
        assert torch.equal(logits, theirs(input_ids=ids).logits)
        assert not torch.allclose(logits, load_model(tiny_model)(input_ids=ids).logits, atol=1e-3)
    half = load_model(adapters, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}


def test_modules_that_adapters_do_not_have_are_no_fault(adapters: Path) -> None:
    of_adapters(adapters, without("layers.0."))
    check_model(adapters, trained=False)
    model = load_model(adapters)
    idle = [
        parameter
        for name, parameter in model.named_parameters()
        if "layers.0." in name and ".lora_B." in name
    ]
    assert idle
    assert not any(parameter.any() for parameter in idle)


def test_adapters_that_do_not_fit_are_refused(adapters: Path, tmp_path: Path) -> None:
    changes: dict[str, Callable[[Tensors], Tensors]] = {
        "all of them unexpected (": prefixed("other."),
        "unexpected (": lambda t: {**t, "other.lora_A.weight": torch.ones(2, 2)},
        "of another shape than the base and adapter_config.json say (": lambda t: {
            k: v[:1] if "lora_A" in k else v for k, v in t.items()
        },
        "missing (": without("layers.0.self_attn.q_proj.lora_A"),
    }
    for number, (words, change) in enumerate(changes.items()):
        folder = shutil.copytree(adapters, tmp_path / str(number))
        said = refusal(of_adapters(folder, change))
        assert words.removeprefix("all of them ") in said
        assert said.startswith(f"adapters {str(folder)!r} do not fit their base ")
        with pytest.raises(UserError, match="do not fit their base"):
            load_model(folder)


def test_adapters_without_their_base_or_on_a_broken_one_are_refused(
    adapters: Path, tiny_model: Path, tmp_path: Path
) -> None:
    config = json.loads((adapters / "adapter_config.json").read_text())
    broken = changed(tiny_model, tmp_path / "broken", without(*PROJECTORS))
    for base, words in ((broken, "tensors missing ("), (tmp_path / "gone", "found none there")):
        config["base_model_name_or_path"] = str(base)
        (adapters / "adapter_config.json").write_text(json.dumps(config))
        assert words in refusal(adapters)
        assert str(base) in refusal(adapters)


def test_adapters_that_came_without_a_processor_take_that_of_their_base(
    adapters: Path, tiny_model: Path
) -> None:
    for file in adapters.iterdir():
        if not file.name.startswith("adapter_"):
            file.unlink()
    check_model(adapters, trained=False)
    prompts = [
        encode_prompt(load_vlm(path, device="meta"), "?", with_image=True, size=(64, 64))
        for path in (adapters, tiny_model)
    ]
    assert prompts[0] == prompts[1]


@pytest.mark.parametrize("stated", ["{}", "[]", '{"base_model_name_or_path": null}'])
def test_adapters_that_name_no_base_are_refused(tmp_path: Path, stated: str) -> None:
    (tmp_path / "adapter_config.json").write_text(stated)
    assert "expected base_model_name_or_path" in refusal(tmp_path)


def test_a_pointer_of_git_lfs_is_told_from_a_file_that_is_cut_off(
    vicuna_llava: Path, tmp_path: Path
) -> None:
    shutil.copytree(vicuna_llava, tmp_path / "m")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"
    (tmp_path / "m" / WEIGHTS).write_text(pointer)
    assert refusal(tmp_path / "m").endswith("(a pointer of Git LFS); git lfs pull")
