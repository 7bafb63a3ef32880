"""An ED-LoRA of a folder of pictures by PyTorch and diffusers, with the settings of eval:training, in float32.
usage: train_edlora.py MODEL_FOLDER DATA_FOLDER NAME CLASS_WORD STEPS SEED THREADS OUT.pth

The miniature's shipped concepts were trained by this recipe (with bfloat16 activations); written in Mix-of-Show's
structure. Two captions a batch, so that 2 x 16 prompts are encoded."""
import glob
import math
import random
import sys

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

LAYERS, BATCH, RANK, VIEWS = 16, 8, 4, 8
RATES = {"embedding": 5e-3, "text": 3e-5, "unet": 2.5e-3}
NOISE_OFFSET, ATTENTION_WEIGHT = 0.01, 0.01

folder, data, name, class_word = sys.argv[1:5]
steps, seed, threads, out = *(int(a) for a in sys.argv[5:8]), sys.argv[8]
torch.set_num_threads(threads)
torch.manual_seed(seed)
choose = random.Random(seed)


class LayerwiseAttention:
    """Attention processor: takes its own of the layer-wise text states, and keeps its cross-attention map."""

    maps = []

    def __init__(self, index=None):
        self.index = index

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        cross = encoder_hidden_states is not None
        context = encoder_hidden_states[:, self.index] if cross else hidden_states
        batch, rows, _ = hidden_states.shape

        def heads(x):
            return x.reshape(batch, x.shape[1], attn.heads, -1).transpose(1, 2)

        q, k, v = heads(attn.to_q(hidden_states)), heads(attn.to_k(context)), heads(attn.to_v(context))
        probabilities = (q @ k.transpose(2, 3) * attn.scale).softmax(-1)
        if cross:
            self.maps.append(probabilities)
        return attn.to_out[0]((probabilities @ v).transpose(1, 2).reshape(batch, rows, -1))


class Lora(nn.Module):
    """x -> linear(x) + up(down(x))"""

    def __init__(self, linear):
        super().__init__()
        self.lora_down = nn.Linear(linear.in_features, RANK, bias=False)
        self.lora_up = nn.Linear(RANK, linear.out_features, bias=False)
        nn.init.kaiming_uniform_(self.lora_down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_up.weight)
        inner = linear.forward
        linear.forward = lambda x: inner(x) + self.lora_up(self.lora_down(x))


def add_loras(root, class_name, prefix=""):
    linears = {}
    for path, module in root.named_modules():
        if module.__class__.__name__ == class_name:
            for child, linear in module.named_modules():
                if isinstance(linear, nn.Linear):
                    linears[f"{prefix}{path}.{child}"] = linear
    return {path: Lora(linear) for path, linear in linears.items()}


def load_text_encoder():
    """Whatever prefix the installed transformers gives its keys."""
    encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(f"{folder}/text_encoder"))
    weights = {k: v.float() for k, v in load_file(f"{folder}/text_encoder/model.safetensors").items()}
    weights = {k: v for k, v in weights.items() if "position_ids" not in k}
    if not any(k.startswith("text_model.") for k in encoder.state_dict()):
        weights = {k.replace("text_model.", "", 1): v for k, v in weights.items()}
    missing, extra = encoder.load_state_dict(weights, strict=False)
    assert not extra and all("position_ids" in k for k in missing), (missing, extra)
    return encoder.eval()


def views_of(picture, mask):
    """The picture, and it with the object moved inside the frame, edges continued."""
    pixels, cells = np.asarray(picture), np.asarray(mask)
    height, width = cells.shape
    ys, xs = np.nonzero(cells > 127)
    yield pixels, cells
    for _ in range(VIEWS - 1):
        dx = choose.randint(-int(xs.min()), width - 1 - int(xs.max()))
        dy = choose.randint(-int(ys.min()), height - 1 - int(ys.max()))
        rows = np.clip(np.arange(height) - dy, 0, height - 1)
        columns = np.clip(np.arange(width) - dx, 0, width - 1)
        yield pixels[rows][:, columns], cells[rows][:, columns]


tokenizer = CLIPTokenizer.from_pretrained(f"{folder}/tokenizer")
text = load_text_encoder()
unet = UNet2DConditionModel.from_pretrained(f"{folder}/unet", torch_dtype=torch.float32).eval()
vae = AutoencoderKL.from_pretrained(f"{folder}/vae", torch_dtype=torch.float32).eval()
for model in (text, unet, vae):
    model.requires_grad_(False)
count = 0
for part in (unet.down_blocks, unet.mid_block, unet.up_blocks):
    for path, module in part.named_modules():
        if isinstance(module, Attention):
            cross = path.endswith("attn2")
            module.set_processor(LayerwiseAttention(count if cross else None))
            count += cross
assert count == LAYERS, count

words = [f"<{name}1>", f"<{name}2>"]
table = text.get_input_embeddings().weight.data.clone()
new_words = {}
for j, word in enumerate(words):
    new_words[word] = [f"<new{j * LAYERS + i}>" for i in range(LAYERS)]
    assert tokenizer.add_tokens(new_words[word]) == LAYERS
first = tokenizer.convert_tokens_to_ids(new_words[words[0]][0])
(class_id,) = tokenizer.encode(class_word, add_special_tokens=False)
starts = [torch.randn(table.shape[1]) * 0.013, table[class_id]]
embeddings = nn.Parameter(torch.stack([v[None].repeat(LAYERS, 1) for v in starts]))  # (2, 16, D)
text.resize_token_embeddings(len(tokenizer), mean_resizing=False)
text.requires_grad_(False)
text.get_input_embeddings().forward = lambda ids: nn.functional.embedding(
    ids, torch.cat([table[:first], embeddings.reshape(-1, embeddings.shape[-1])]))
top = "" if any(k.startswith("text_model.") for k in text.state_dict()) else "text_model."
loras = {"text_encoder": add_loras(text, "CLIPAttention", top), "unet": add_loras(unet, "Attention")}

latents, masks, captions = [], [], []
for file in sorted(glob.glob(f"{data}/*.png")):
    if file.endswith("_mask.png"):
        continue
    caption = open(file[:-4] + ".txt").read().strip().replace("<TOK>", " ".join(words))
    picture, mask = Image.open(file).convert("RGB"), Image.open(file[:-4] + "_mask.png").convert("L")
    for pixels, cells in views_of(picture, mask):
        x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            latents.append(vae.encode(x).latent_dist.mean * vae.config.scaling_factor)
        cells = torch.from_numpy(cells.copy())[None, None].float() / 255
        masks.append(nn.functional.max_pool2d(cells, cells.shape[-1] // latents[0].shape[-1]))
        captions.append(caption)
latents, masks = torch.cat(latents), torch.cat(masks)
rows_of = {caption: [i for i, c in enumerate(captions) if c == caption] for caption in captions}

groups = [{"params": [embeddings], "lr": RATES["embedding"]}]
for part, rate in (("text_encoder", RATES["text"]), ("unet", RATES["unet"])):
    groups.append({"params": [p for lora in loras[part].values() for p in lora.parameters()], "lr": rate})
optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
rates = [group["lr"] for group in groups]
alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)

for step in range(steps):
    for group, rate in zip(optimizer.param_groups, rates):
        group["lr"] = rate * (1 - step / steps)
    chosen = [choose.choice(captions) for _ in range(2)]
    rows = torch.tensor([choose.choice(rows_of[chosen[i % 2]]) for i in range(BATCH)])
    x, mask = latents[rows], masks[rows]
    noise = torch.randn_like(x) + NOISE_OFFSET * torch.randn(BATCH, 4, 1, 1)
    timesteps = torch.randint(0, 1000, (BATCH,))
    signal = alphas[timesteps][:, None, None, None]
    prompts = []
    for caption in chosen:
        for layer in range(LAYERS):
            prompts.append(" ".join(new_words[w][layer] if w in new_words else w for w in caption.split(" ")))
    ids = torch.tensor(tokenizer(prompts, padding="max_length", max_length=77, truncation=True).input_ids)
    owner = torch.arange(BATCH) % 2
    LayerwiseAttention.maps.clear()
    context = text(ids)[0].reshape(2, LAYERS, 77, -1)[owner]
    predicted = unet(signal.sqrt() * x + (1 - signal).sqrt() * noise, timesteps, context).sample
    loss = (((predicted - noise) ** 2 * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))).mean()
    places = [[j for j, id in enumerate(row) if id >= first] for row in ids.reshape(2, LAYERS, 77)[owner, 0].tolist()]
    by_size = {}
    for probabilities in LayerwiseAttention.maps:
        by_size.setdefault(probabilities.shape[2], []).append(probabilities)
    for size, probabilities in by_size.items():
        mean = torch.cat(probabilities, 1).mean(1)  # (B, size, 77)
        side = math.isqrt(size)
        adjective, subject = (torch.stack([mean[b, :, places[b][j]] for b in range(BATCH)]) for j in range(2))
        adjective, subject = adjective / adjective.max(), subject / subject.max()
        target = nn.functional.interpolate(mask, size=(side, side), mode="nearest").reshape(BATCH, -1)
        if (target == 0).any():
            loss = loss + ATTENTION_WEIGHT * (((subject - target) ** 2).mean() + adjective[target == 0].mean())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

params = {"new_concept_embedding": {word: embeddings[j].detach().clone() for j, word in enumerate(words)}}
for part, modules in loras.items():
    params[part] = {
        f"{path}.{key}": p.detach().clone() for path, module in modules.items() for key, p in module.named_parameters()}
torch.save({"params": params}, out)
