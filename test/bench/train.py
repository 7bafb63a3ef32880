"""A LoRA training step by diffusers: rank 4 on all attention linears of UNet and text encoder.
usage: train.py MODEL_FOLDER RUNS LATENT_SIZE; prints one JSON line."""
import json
import resource
import sys
import time

import diffusers
import torch
import transformers

folder, runs, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


class Lora(torch.nn.Module):
    def __init__(self, linear, rank=4):
        super().__init__()
        self.linear = linear
        self.down = torch.nn.Linear(linear.in_features, rank, bias=False)
        self.up = torch.nn.Linear(rank, linear.out_features, bias=False)
        torch.nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.linear(x) + self.up(self.down(x))


def adapt(root, wanted):
    trained = []
    for name, module in list(root.named_modules()):
        if not isinstance(module, torch.nn.Linear) or not wanted(name):
            continue
        parent, _, child = name.rpartition(".")
        lora = Lora(module)
        setattr(root.get_submodule(parent), child, lora)
        trained += [*lora.down.parameters(), *lora.up.parameters()]
    return trained


unet = diffusers.UNet2DConditionModel.from_pretrained(folder, subfolder="unet").float().requires_grad_(False)
text = transformers.CLIPTextModel.from_pretrained(folder, subfolder="text_encoder").float().requires_grad_(False)
parameters = adapt(unet, lambda name: ".attn" in name and ".to_" in name) + adapt(text, lambda name: "self_attn" in name)
optimizer = torch.optim.AdamW(parameters, lr=1e-4)
channels, width = unet.config.in_channels, unet.config.cross_attention_dim
ids = torch.arange(77)[None] % 800
times, cpu_times = [], []
for _ in range(runs):
    start, start_cpu = time.perf_counter(), time.process_time()
    noise, sample = torch.randn(1, channels, size, size), torch.randn(1, channels, size, size)
    prediction = unet(sample, torch.tensor([500]), text(ids)[0]).sample
    loss = torch.nn.functional.mse_loss(prediction, noise)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    times.append((time.perf_counter() - start) * 1000)
    cpu_times.append((time.process_time() - start_cpu) * 1000)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}, {torch.get_num_threads()} threads"
print(json.dumps({"stepMs": times, "cpuMs": cpu_times, "peakBytes": peak, "versions": versions}))
