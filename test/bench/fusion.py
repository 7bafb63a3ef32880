"""Gradient fusion of one layer by PyTorch's L-BFGS, with the published settings. usage: fusion.py FILE ITERATIONS
FILE holds x [N, n], y [N, m] and w0 [m, n]; prints one JSON line."""
import json
import resource
import sys
import time

import torch
from safetensors.torch import load_file

tensors = load_file(sys.argv[1])
x, y, w = tensors["x"], tensors["y"], tensors["w0"].clone().requires_grad_(True)
optimizer = torch.optim.LBFGS(
    [w],
    lr=1,
    max_iter=int(sys.argv[2]),
    history_size=25,
    line_search_fn="strong_wolfe",
    tolerance_grad=1e-16,
    tolerance_change=1e-16,
)
best = float("inf")
evaluations = 0


def closure():
    global best, evaluations
    optimizer.zero_grad()
    loss = torch.nn.functional.mse_loss(x @ w.T, y)
    loss.backward()
    best = min(best, loss.item())
    evaluations += 1
    return loss


start = time.perf_counter()
optimizer.step(closure)
elapsed = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
versions = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
print(json.dumps({"elapsedMs": elapsed * 1000, "loss": best, "evaluations": evaluations, "peakBytes": peak, "versions": versions}))
