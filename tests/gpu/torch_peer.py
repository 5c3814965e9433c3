#!/usr/bin/env python3
"""torch_peer.py N_HEADS N_KV_HEADS HEAD_DIM BATCH,... DEPTH,... : what PyTorch reaches on this GPU, one JSON object a line like bench_gpu's: the
bandwidth of a copy, and decode attention of one query a sequence by scaled_dot_product_attention in half precision, over a contiguous cache
(PyTorch's own has no pages). Ends with status 3 where there is no torch with a CUDA device. Called by tests/gpu/run.
"""
import json
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    sys.exit(3)
if not torch.cuda.is_available():
    sys.exit(3)


def least_s(run, repeats=7, times=10):
    best = float("inf")
    for i in range(-1, repeats):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(times):
            run()
        torch.cuda.synchronize()
        if i >= 0:
            best = min(best, (time.perf_counter() - begin) / times)
    return best


def tell(**row):
    print(json.dumps(row), flush=True)


def main():
    n_heads, n_kv_heads, head_dim = (int(a) for a in sys.argv[1:4])
    batches, depths = ([int(n) for n in a.split(",")] for a in sys.argv[4:6])
    a = torch.empty(1 << 28, dtype=torch.float32, device="cuda")
    b = torch.empty_like(a)
    tell(bench="torch copy", version=torch.__version__, device=torch.cuda.get_device_name(), bytes_per_s=2 * a.numel() * 4 / least_s(lambda: b.copy_(a)))
    del a, b
    for batch in batches:
        for depth in depths:
            n_bytes = 2 * batch * n_kv_heads * depth * head_dim * 2
            if n_bytes > torch.cuda.mem_get_info()[0] * 0.8:
                continue
            q = torch.randn(batch, n_heads, 1, head_dim, device="cuda", dtype=torch.float16)
            k, v = (torch.randn(batch, n_kv_heads, depth, head_dim, device="cuda", dtype=torch.float16) for _ in range(2))
            s = least_s(lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=n_heads != n_kv_heads))
            tell(bench="torch attend", kv="f16", batch=batch, depth=depth, us=s * 1e6, bytes=n_bytes, bytes_per_s=n_bytes / s)
            del q, k, v


main()
