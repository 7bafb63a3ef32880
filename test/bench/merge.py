"""What the merge benchmark compares with; prints one JSON line.

usage: merge.py cat OUT A B C | peft MODEL OUT A B C | svd RANK NEW_RANK M N ...
"""
import json
import sys
import time

import safetensors
import safetensors.torch
import torch

versions = f"torch {torch.__version__}, safetensors {safetensors.__version__}, {torch.get_num_threads()} threads"


def cat(out, files):
    """The exact merge in the fewest lines: factors side by side, alpha equal to the rank."""
    inputs = [safetensors.torch.load_file(file) for file in files]
    merged = {}
    names = sorted({key.rsplit(".lora_", 1)[0] for key in inputs[0] if ".lora_" in key})
    for name in names:
        downs, ups = [], []
        for tensors in inputs:
            down = tensors[f"{name}.lora_down.weight"].float()
            up = tensors[f"{name}.lora_up.weight"].float()
            alpha = tensors[f"{name}.alpha"].item()
            downs.append(down)
            ups.append(up * (alpha / down.shape[0]))
        merged[f"{name}.lora_down.weight"] = torch.cat(downs, 0).contiguous()
        merged[f"{name}.lora_up.weight"] = torch.cat(ups, 1).contiguous()
        merged[f"{name}.alpha"] = torch.tensor(float(sum(d.shape[0] for d in downs)))
    safetensors.torch.save_file(merged, out)
    return {}


def peft_cat(model, out, files):
    """PEFT's add_weighted_adapter(combination_type="cat") on the networks as diffusers loads them."""
    import diffusers
    import peft
    from transformers import CLIPTextModel

    networks = {
        "unet": diffusers.UNet2DConditionModel.from_pretrained(f"{model}/unet", torch_dtype=torch.float16),
        "te": CLIPTextModel.from_pretrained(f"{model}/text_encoder", torch_dtype=torch.float16),
    }
    inputs = [safetensors.torch.load_file(file) for file in files]
    merged = {}
    for prefix, network in networks.items():
        paths = {name.replace(".", "_"): name for name, _ in network.named_modules()}
        found = {}
        for key in inputs[0]:
            stem, _, rest = key.partition(".")
            name = stem.removeprefix(f"lora_{prefix}_")
            if rest == "lora_down.weight" and name != stem:
                # Newer text encoders have dropped the level text_model.
                found[stem] = paths.get(name) or paths[name.removeprefix("text_model_")]
        names = [f"lora{i}" for i in range(len(inputs))]
        adapted = None
        for adapter, tensors in zip(names, inputs):
            stem = next(iter(found))
            rank = tensors[f"{stem}.lora_down.weight"].shape[0]
            config = peft.LoraConfig(
                r=rank, lora_alpha=tensors[f"{stem}.alpha"].item(), target_modules=list(found.values())
            )
            if adapted is None:
                adapted = peft.PeftModel(network, config, adapter, low_cpu_mem_usage=True)
            else:
                adapted.add_adapter(adapter, config, low_cpu_mem_usage=True)
            state = {}
            for stem, path in found.items():
                state[f"base_model.model.{path}.lora_A.weight"] = tensors[f"{stem}.lora_down.weight"].float()
                state[f"base_model.model.{path}.lora_B.weight"] = tensors[f"{stem}.lora_up.weight"].float()
            peft.set_peft_model_state_dict(adapted, state, adapter_name=adapter, low_cpu_mem_usage=True)
        adapted.base_model.add_weighted_adapter(names, [1.0] * len(names), "merged", combination_type="cat")
        state = peft.get_peft_model_state_dict(adapted, adapter_name="merged")
        merged.update({f"{prefix}.{key}": value.contiguous() for key, value in state.items()})
    if not all(value.any() for value in merged.values()):
        raise RuntimeError("PEFT's merge is empty")
    safetensors.torch.save_file(merged, out)
    return {"layers": len(merged) // 2, "versions": f"peft {peft.__version__}, diffusers {diffusers.__version__}"}


def svd(rank, new_rank, shapes):
    """A dense SVD of each shape, as kohya's and PEFT's tools recompress."""
    times = []
    for m, n in shapes:
        up, down = torch.randn(m, rank), torch.randn(rank, n)
        start, cpu = time.perf_counter(), time.process_time()
        u, s, vh = torch.linalg.svd(up @ down, full_matrices=False)
        (u[:, :new_rank] * s[:new_rank]).contiguous(), vh[:new_rank].contiguous()
        spent = {"ms": time.perf_counter() - start, "cpuMs": time.process_time() - cpu}
        times.append({name: value * 1000 for name, value in spent.items()})
    return {"layers": times}


mode, rest = sys.argv[1], sys.argv[2:]
if mode == "cat":
    result = cat(rest[0], rest[1:])
elif mode == "peft":
    result = peft_cat(rest[0], rest[1], rest[2:])
else:
    numbers = [int(value) for value in rest]
    result = svd(numbers[0], numbers[1], list(zip(numbers[2::2], numbers[3::2])))
print(json.dumps({"versions": versions, **result}))
