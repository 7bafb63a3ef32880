"""Pictures of a ported concept by diffusers alone.

    python draw_portable.py <model folder> <portable folder> <prompt> <steps> <guidance> <out> <seed> ...

Writes <out>: one picture per seed in [0, 1], [n, h, w, 3] float32, as safetensors.
"""
import os
import sys

import numpy
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.numpy import save_file

model, folder, prompt, steps, guidance, out, *seeds = sys.argv[1:]
pipe = StableDiffusionPipeline.from_pretrained(
    model, torch_dtype=torch.float32, safety_checker=None, local_files_only=True
)
pipe.set_progress_bar_config(disable=True)
pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
pipe.load_lora_weights(folder, weight_name="lora.safetensors")
for name in sorted(os.listdir(folder)):
    word = name.removesuffix(".safetensors")
    if name.endswith(".safetensors") and word not in ("lora", "lora-with-words"):
        pipe.load_textual_inversion(os.path.join(folder, name), token=word)
pictures = [
    pipe(
        prompt,
        num_inference_steps=int(steps),
        guidance_scale=float(guidance),
        generator=torch.Generator().manual_seed(int(seed)),
        output_type="np",
    ).images[0]
    for seed in seeds
]
# The file is written from memory as it lies: pictures are views with the channels first.
save_file({"pictures": numpy.ascontiguousarray(numpy.stack(pictures), dtype="float32")}, out)
