#!/usr/bin/env python3
"""daemon_on_shim.py SHIM FAKE_NVML_FOLDER: kvqd with backend = cuda, on the SIMT shim and with a false libnvidia-ml.so.1. Run by ctest with
KVQD set. What is asserted is what the daemon says and does when a GPU is there, is not usable, and is lost."""
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "daemon"))
from world import *  # noqa: F403

SHIM, FAKE_NVML = sys.argv[1:3]
CONFIG = "[engine]\nbackend = cuda\nsession_len = 512\n[telemetry]\ninterval_s = 1\n"


def telemetry_names_the_gpu(fault_file):
    with World(CONFIG) as w:
        w.start()
        w.out.rewind()  # it came before the phase
        info = w.wait("info", lambda m: m.json()["kv"]).json()
        equal(info["backend"]["active"], "cuda", "backend")
        equal(info["backend"]["device_bus_id"], "0000:65:00.0", "the GPU's address")
        final = answered(w.ask("q1", {"prompt": "hello", "max_tokens": 4}))
        equal(final["energy_j"], 0.0, "energy of a GPU whose counter stands still")
        equal(final["energy_per_token_j"], 0.0, "energy per token")
        m = w.wait("telemetry", lambda m: m.json()["generation_tokens_total"] >= 4).json()
        want = {"gpu_power_w": 250.5, "gpu_temperature_c": 61, "gpu_utilization_ratio": 0.97, "gpu_clock_hz": 1980000000,
                "gpu_memory_clock_hz": 2619000000, "gpu_memory_used_bytes": 20 << 30, "gpu_memory_total_bytes": 80 << 30,
                "gpu_throttled": 0, "gpu_throttle_reasons": "power_cap", "gpu_energy_joules_total": 0}
        equal({key: m[key] for key in want}, want, "telemetry")


def info_tells_of_cublas(fault_file):
    wish = {"KVQ_CUDA_CUBLAS": "/nowhere/libcublas.so", "KVQ_CUDA_CUBLAS_ROWS": "100"}
    os.environ.update(wish)
    for prefill, reproducible, told in ((200, "no", True), (60, "no", False), (200, "yes", False)):
        with World(CONFIG.replace("[telemetry]", f"max_batch_size = 8\nmax_prefill_token_num = {prefill}\nreproducible = {reproducible}\n[telemetry]")) as w:
            w.start()
            w.out.rewind()
            cublas = w.wait("info", lambda m: m.json()["kv"]).json()["backend"]["cublas"]
            if told:
                check(cublas.startswith("not used: it cannot be opened: /nowhere/libcublas.so"), f"cublas: {cublas}")
            else:
                equal(cublas, None, f"cublas at {prefill} tokens, reproducible = {reproducible}")
    for name in wish:
        del os.environ[name]


def an_unusable_gpu_is_degraded(fault_file):
    for fault, text in (("no_driver", "no NVIDIA driver is installed"), ("old_driver", "the NVIDIA driver is too old"),
                        ("no_device", "no NVIDIA GPU is found"), ("no_image", "cudaErrorNoKernelImageForDevice")):
        fault_file.write_text(fault)
        with World(CONFIG) as w:
            w.start(wait_for=None)
            state = w.phase("degraded")
            check("backend 'cuda' is asked for" in state["reason"] and text in state["reason"], f"{fault}: {state['reason']}")
            answered(w.ask("q1", {"prompt": "hello", "max_tokens": 4}))
            w.out.rewind()
            info = w.wait("info", lambda m: m.json()["kv"]).json()
            equal((info["backend"]["requested"], info["backend"]["active"]), ("cuda", "cpu"), "backends")
            m = w.command("dump")["data"]["telemetry"]
            equal((m["gpu_power_w"], m["gpu_throttle_reasons"]), (None, None), "figures of a GPU that is not used")
    fault_file.unlink()


def a_prompt_outlives_a_lost_gpu(fault_file):
    with World(CONFIG) as w:
        w.start()
        fault_file.write_text("launch")
        w.pub("prompt/kept", {"prompt": "hello", "max_tokens": 4})
        event = w.wait("event", lambda m: m.json()["type"] == "gpu_lost").json()
        check("failed on the GPU" in event["message"], f"event: {event}")
        equal(w.daemon.wait(LIMIT_S), 1, "exit status, which has the service started again")
        fault_file.unlink()
        w.start_daemon()
        answered(w.final("kept"))


def main():
    fault_file = pathlib.Path(tempfile.mkdtemp(prefix="kvqd-test-")) / "fault"
    os.environ.update(KVQ_CUDA_PLUGIN=SHIM, KVQ_SIMT_FAULT=f"@{fault_file}", LD_LIBRARY_PATH=FAKE_NVML)
    try:
        for test in (telemetry_names_the_gpu, info_tells_of_cublas, an_unusable_gpu_is_degraded, a_prompt_outlives_a_lost_gpu):
            test(fault_file)
            print(f"ok {test.__name__}", flush=True)
    finally:
        shutil.rmtree(fault_file.parent)


main()
