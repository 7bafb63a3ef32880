"""The UNet's forward pass by diffusers (RUNS times, or not at all), and with batch 1 at 64 × 64 the decoder's.
usage: engine.py MODEL_FOLDER RUNS [BATCH [LATENT_SIDE [DTYPE]]], numbers in float32 unless DTYPE says another; prints one JSON
line."""
import json
import resource
import sys
import time

import diffusers
import torch

folder, runs = sys.argv[1], int(sys.argv[2])
batch = int(sys.argv[3]) if len(sys.argv) > 3 else 1
side = int(sys.argv[4]) if len(sys.argv) > 4 else 64
dtype = getattr(torch, sys.argv[5] if len(sys.argv) > 5 else "float32")


def clocked(work, times, cpu_times):
    start, cpu = time.perf_counter(), time.process_time()
    work()
    times.append((time.perf_counter() - start) * 1000)
    cpu_times.append((time.process_time() - cpu) * 1000)


load, forward, forward_cpu, decode, decode_cpu = 0.0, [], [], [], []
sample = torch.randn(batch, 4, side, side, dtype=dtype)
if runs > 0:
    start = time.perf_counter()
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=dtype).eval()
    load = time.perf_counter() - start
    context = torch.randn(batch, 77, unet.config.cross_attention_dim, dtype=dtype)
    added = None
    if unet.config.addition_embed_type == "text_time":
        sizes = torch.tensor([[side * 8, side * 8, 0, 0, side * 8, side * 8]] * batch, dtype=dtype)
        pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        added = {"text_embeds": torch.randn(batch, pooled, dtype=dtype), "time_ids": sizes}
    with torch.no_grad():
        for _ in range(runs):
            clocked(lambda: unet(sample, 500, context, added_cond_kwargs=added), forward, forward_cpu)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
if batch == 1 and side == 64:
    vae = diffusers.AutoencoderKL.from_pretrained(folder, subfolder="vae", torch_dtype=dtype).eval()
    with torch.no_grad():
        for _ in range(2):
            clocked(lambda: vae.decode(sample), decode, decode_cpu)
versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}, {torch.get_num_threads()} threads"
print(
    json.dumps(
        {
            "loadMs": load * 1000,
            "forwardMs": forward,
            "cpuMs": forward_cpu,
            "decodeMs": decode,
            "decodeCpuMs": decode_cpu,
            "peakBytes": peak,
            "versions": versions,
        }
    )
)
