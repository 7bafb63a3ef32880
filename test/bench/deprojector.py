"""One training step of batch 64 and one application of a deprojector of CLIP-L's size, by PyTorch.
usage: deprojector.py MODEL RUNS; prints one JSON line. The models are those of fixtures/deprojector/make_goldens.py."""
import json
import resource
import sys
import time

import torch
from torch import nn

model, runs = sys.argv[1], int(sys.argv[2])
WIDTH, INNER, HEADS, POSITIONS, BATCH, VICINITY = 768, 3072, 12, 76, 64, 3


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2, self.final = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.fc1, self.fc2 = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        if model == "transformer":
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        elif model == "vicinity-joint":
            self.first, self.out = nn.Linear((VICINITY + 1) * WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        else:
            self.maps = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(VICINITY + 1))
            self.out = nn.Linear((VICINITY + 1) * WIDTH, WIDTH)

    def rest(self, x):
        return self.final(x + self.fc2(quick_gelu(self.fc1(self.norm2(x)))))

    def heads(self, x):
        return [part.view(*part.shape[:2], HEADS, -1).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1)]

    def mixed(self, parts):
        if model == "vicinity-joint":
            return self.out(quick_gelu(self.first(torch.cat(parts, -1))))
        return self.out(torch.cat([own(part) for own, part in zip(self.maps, parts)], -1))

    def forward(self, e, before):
        """e [B, 1, D], before [B, T - 1, D] -> [B, T, D]"""
        rows = before.shape[1] + 1
        if model == "transformer":
            x = torch.cat([e, before], 1)
            attended = nn.functional.scaled_dot_product_attention(*self.heads(x), is_causal=True)
            return self.rest(x + self.out(attended.transpose(1, 2).flatten(2)))
        padded = torch.cat([before.new_zeros(len(before), VICINITY, WIDTH), before], 1)
        near = [padded[:, VICINITY - 1 - k:VICINITY - 1 - k + rows] for k in range(VICINITY)]
        return self.rest(near[0] + self.mixed([e.expand(-1, rows, -1), *near]))

    def alone(self, e):
        """e [B, 1, D]; each position from those before it, keys and values kept."""
        states, kept, near = [], None, [torch.zeros_like(e)] * VICINITY
        for _ in range(POSITIONS):
            if model == "transformer":
                x = states[-1] if states else e
                q, k, v = self.heads(x)
                kept = (k, v) if kept is None else (torch.cat([kept[0], k], 2), torch.cat([kept[1], v], 2))
                attended = nn.functional.scaled_dot_product_attention(q, *kept)
                state = self.rest(x + self.out(attended.transpose(1, 2).flatten(2)))
            else:
                state = self.rest(near[0] + self.mixed([e, *near]))
                near = [state, *near[:-1]]
            states.append(state)
        return torch.cat(states, 1)


torch.manual_seed(0)
layer = Layer()
optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-4)
embedding, states = torch.randn(BATCH, 1, WIDTH), torch.randn(BATCH, POSITIONS, WIDTH)


def step():
    optimizer.zero_grad()
    loss = ((layer(embedding, states[:, :-1]) - states) ** 2).mean()
    loss.backward()
    optimizer.step()


def apply():
    with torch.no_grad():
        layer.alone(embedding[:1])


def times(work):
    found = []
    for _ in range(runs):
        start, cpu = time.perf_counter(), time.process_time()
        work()
        found.append([(time.perf_counter() - start) * 1000, (time.process_time() - cpu) * 1000])
    return found


def rss():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


applied = times(apply)
peak_apply = rss()
stepped = times(step)
print(json.dumps({"apply": applied, "step": stepped, "peakApply": peak_apply, "peakStep": rss(),
                  "versions": f"torch {torch.__version__}, {torch.get_num_threads()} threads"}))
