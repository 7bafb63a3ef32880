"""Cholesky factorisations and solves in float64 by LAPACK through torch. Reads [[n, right-hand sides], …] from its input; prints
one JSON line. Matrices and right-hand sides are in memory before the clock starts."""
import json
import sys
import time

import torch

systems = json.load(sys.stdin)
torch.manual_seed(0)
matrices = {}
for n in {n for n, _ in systems}:
    x = torch.randn(n, n, dtype=torch.float64)
    matrices[n] = x.T @ x + n * torch.eye(n, dtype=torch.float64)
sides = [torch.randn(n, k, dtype=torch.float64) for n, k in systems]
torch.cholesky_solve(sides[0], torch.linalg.cholesky(matrices[systems[0][0]]))
start, cpu = time.perf_counter(), time.process_time()
for (n, _), b in zip(systems, sides):
    torch.cholesky_solve(b, torch.linalg.cholesky(matrices[n]))
print(json.dumps({"elapsedMs": (time.perf_counter() - start) * 1000, "cpuMs": (time.process_time() - cpu) * 1000}))
