"""What the merge benchmark compares with. usage: merge.py cat OUT A B C | svd RANK NEW_RANK M N ...; prints one JSON line."""
import json
import sys
import time

import safetensors
import safetensors.torch
import torch

versions = f"torch {torch.__version__}, safetensors {safetensors.__version__}, {torch.get_num_threads()} threads"


def cat(out, files):
    """The exact merge, layer by layer: factors side by side, alpha equal to the rank."""
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


def svd(rank, new_rank, shapes):
    """A dense SVD of each shape, as kohya's and PEFT's tools recompress."""
    times = []
    for m, n in shapes:
        up, down = torch.randn(m, rank), torch.randn(rank, n)
        start = time.perf_counter()
        u, s, vh = torch.linalg.svd(up @ down, full_matrices=False)
        (u[:, :new_rank] * s[:new_rank]).contiguous(), vh[:new_rank].contiguous()
        times.append((time.perf_counter() - start) * 1000)
    return {"layerMs": times}


mode, rest = sys.argv[1], sys.argv[2:]
if mode == "cat":
    result = cat(rest[0], rest[1:])
else:
    numbers = [int(value) for value in rest]
    result = svd(numbers[0], numbers[1], list(zip(numbers[2::2], numbers[3::2])))
print(json.dumps({**result, "versions": versions}))
