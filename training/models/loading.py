"""A model of transformers from a folder or the Hub, with no tensor that did not come from files.

On the device "meta" only configuration and headers are read: the model has shapes and no numbers,
and what would be refused is refused.
"""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.core.hub_models import hub_fault, without_reports
from pipeline.core.recipe import UserError, is_hub_id
from training.models.attention import SPLIT, implementation, register
from training.models.families import refusal
from training.models.weight_files import (
    Loading,
    StoredTensor,
    adapter_tensors,
    base_of_adapter,
    model_tensors,
    refuse_integers,
    refuse_misfit,
    refuse_misfit_of_adapters,
)

# Of every call of transformers: the code that a model brings is never executed.
OWN_CODE = {"trust_remote_code": False}
MAX_REASON = 240  # characters of another library's message
META = torch.device("meta")


def load_model(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    attention: str = SPLIT,
    **options: Any,
) -> Any:
    """The model of a Hugging Face folder or Hub id, in evaluation mode.

    Args:
        device: "meta" reads no more than headers.
        attention: The kernel for packed rows: `attention.SPLIT`, or `attention.DENSE` to check it
            by.
        options: More for `from_pretrained`, such as a quantization_config.

    Raises:
        UserError: Not a model that this toolkit supports, or one whose files do not hold all of
            its tensors; with the reason.
    """
    without_bars()
    register()
    device, base = torch.device(device), base_of_adapter(path)
    options |= {
        "dtype": dtype,
        "attn_implementation": implementation(attention),
        "use_safetensors": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # they are refused with all others
    }
    with without_reports():
        if device == META:
            return _of_headers(path, base, options)
        if Path(path).is_dir():  # before gigabytes are read
            _of_headers(path, base, options)
        model = _of_files(path, base, options, device)
    empty = [name for name, value in model.named_parameters() if value.is_meta]
    assert not empty, f"without numbers after loading: {empty[:3]}"
    # weights in 4 bits cannot be moved
    return (model if "device_map" in options else model.to(device)).eval()


def without_bars() -> None:
    """Keeps transformers' bars for reading and writing weights from running into ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def read(path: str | Path, load: Callable[..., Any], **options: Any) -> Any:
    """What transformers loads from a folder or Hub id; its failures in one line."""
    if not Path(path).is_dir() and not is_hub_id(str(path), needs_org=False):
        raise UserError(
            f"model {str(path)!r}: expected a whole Hugging Face model folder or a Hub id, found"
            " none there"
        )
    try:
        return load(path, **options, **OWN_CODE)
    # What classes say of values that they do not take is of many types.
    except Exception as error:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            raise
        raise UserError(
            f"model {str(path)!r}: expected a whole Hugging Face model folder or a Hub id;"
            f" {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    """What transformers says, on one line, without its advice to execute foreign code."""
    said = " ".join(str(error).split()) or type(error).__name__
    if "trust_remote_code" in said:
        return "it brings code of its own (auto_map), which is never executed here"
    return said if len(said) <= MAX_REASON else f"{said[:MAX_REASON]} ..."


def read_config(path: str | Path) -> Any:
    """The configuration of a model that this toolkit supports.

    Raises:
        UserError: It is not supported, with the reason.
    """
    from transformers import AutoConfig

    is_id = not Path(path).is_dir() and is_hub_id(str(path), needs_org=False)
    if is_id and (fault := hub_fault(str(path), ("config.json",))):
        raise UserError(
            f"model {str(path)!r}: neither a folder nor a model that can be had; {fault}"
        )
    config = read(path, AutoConfig.from_pretrained)
    _refuse(path, refusal(config))
    return config


def _refuse(path: str | Path, reason: str) -> None:
    if reason:
        raise UserError(f"model {str(path)!r} cannot be used: {reason}")


def quantization(config: Any) -> Mapping[str, Any]:
    """How the weights of a model are stored in few bits; empty where they are not."""
    for part in (config, config.get_text_config()):
        for name in ("quantization_config", "compression_config"):
            if stated := getattr(part, name, None):
                return dict(stated)
    return {}


def quantization_method(stated: Mapping[str, Any]) -> str:
    """Its name, such as "awq"."""
    return str(stated.get("quant_method") or "no quant_method")


def _quantization_fault(config: Any) -> str:
    """Why quantized weights cannot be read here, or ""."""
    from transformers.quantizers.auto import AutoHfQuantizer

    stated = quantization(config)
    if not stated:
        return ""
    reason = ""
    try:
        quantizer = AutoHfQuantizer.from_config(dict(stated), pre_quantized=True)
    except (ImportError, ValueError, TypeError) as error:
        reason = _reason(error)
    else:
        try:
            quantizer.validate_environment(device_map=None, weights_only=True)
        except ImportError as error:
            reason = _reason(error)
        except (RuntimeError, ValueError):
            reason = ""  # of the devices of this process; the one that loads it may have others
    return reason and f"its weights are quantized ({quantization_method(stated)}); {reason}"


def _of_headers(path: str | Path, base: str | None, options: Mapping[str, Any]) -> Any:
    """The model without its numbers."""
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    whole = base or str(path)
    config = read_config(whole)
    tensors, model_class = model_tensors(whole), MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    _refuse(whole, _quantization_fault(config))
    if quantization(config):  # its files hold other tensors than its class
        plain = copy.deepcopy(config)
        for part in (plain, plain.get_text_config()):
            part.__dict__.pop("quantization_config", None)
        with META:
            return model_class(plain).eval()
    refuse_integers(whole, tensors)
    own = {k: v for k, v in options.items() if k not in ("quantization_config", "device_map")}

    def fill(_: object, **how: Any) -> Any:
        return model_class.from_pretrained(None, config=config, **how)

    model, info = read(whole, fill, state_dict=_empty(tensors), device_map={"": META}, **own)
    refuse_misfit(whole, Loading.of(info, model.state_dict()))
    if base is not None:
        _add_adapters(model, path, base)
    return model.eval()


def _of_files(
    path: str | Path, base: str | None, options: dict[str, Any], device: torch.device
) -> Any:
    from transformers import AutoModelForImageTextToText

    whole = base or str(path)
    config = read_config(whole)
    _refuse(whole, _quantization_fault(config))
    if quantization(config):
        options.setdefault("device_map", {"": device})
    model, info = read(whole, AutoModelForImageTextToText.from_pretrained, **options)
    if base == str(path):  # transformers read both, and tells of the adapters
        refuse_misfit_of_adapters(path, base, Loading.of(info, _adapter_names(model)))
        return model
    refuse_misfit(whole, Loading.of(info, model.state_dict()))
    if base is not None:
        _add_adapters(model, path, base)
    return model


def _add_adapters(model: Any, path: str | Path, base: str) -> None:
    """Puts the adapters of a folder on their base."""
    from peft import PeftConfig

    try:
        given: dict[str, Any] = {"peft_model_id": str(path)}
        if model.device == META:
            given = {
                "peft_config": PeftConfig.from_pretrained(str(path)),
                "adapter_state_dict": _empty(adapter_tensors(Path(path))),
            }
        info = model.load_adapter(**given, ignore_mismatched_sizes=True).to_dict()
    except UserError:
        raise
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise UserError(
            f"adapters {str(path)!r} do not fit their base {base!r}: {_reason(error)}"
        ) from error
    loading = Loading.of(info, _adapter_names(model))
    refuse_misfit_of_adapters(path, base, loading)
    active = [
        name
        for name in loading.missing
        if ".lora_B." in name and model.device != META and model.get_parameter(name).any()
    ]
    if active:
        refuse_misfit_of_adapters(path, base, loading._replace(unexpected=frozenset(active)))


def _adapter_names(model: Any) -> list[str]:
    """The parameters of adapters, by the names that transformers takes for theirs."""
    return [name for name, _ in model.named_parameters() if "lora" in name or "default" in name]


def _empty(tensors: Mapping[str, StoredTensor]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(tensor.shape, device=META) for name, tensor in tensors.items()}


def refuse_spoilt(path: str | Path, model: Any) -> None:
    """Raises UserError for parameters with NaN or infinity; reads each once.

    Training need not ask: it looks at what its base makes of the pairs.
    """
    floats = (torch.float32, torch.float16, torch.bfloat16)
    spoilt = [
        name
        for name, value in model.named_parameters()
        if value.dtype in floats and not torch.isfinite(torch.stack(value.detach().aminmax())).all()
    ]
    if spoilt:
        raise UserError(
            f"model {str(path)!r}: {len(spoilt):,} of its tensors hold NaN or infinity"
            f" ({', '.join(spoilt[:3])}); its training went wrong, or its files are damaged"
        )
