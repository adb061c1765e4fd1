"""Description of the machine and versions for the tables, and the environment of the engines."""

import os
import platform
import subprocess
from functools import cache
from pathlib import Path

from models import ROOT

FEATURES = {
    "AVX2": "avx2", "AVX-512": "avx512f", "VNNI": "avx512_vnni", "AVX512-BF16": "avx512_bf16",
    "AVX512-FP16": "avx512_fp16", "AMX int8": "amx_int8", "AMX bf16": "amx_bf16", "AMX fp16": "amx_fp16",
}
# Variables that would change the kernels or threads of a peer.
UNSET = ("OPENBLAS_", "MKL_", "OMP_", "KMP_", "DNNL_", "ONEDNN_", "ATEN_", "GOTO_", "BLIS_", "NVPL_", "TORCH_", "OV_")
HIDE = Path(__file__).with_name("held_to_avx2.c")


def environment(threads: int, avx2: bool) -> dict[str, str]:
    """Environment of the process of an engine. With `avx2`, newer instruction sets are hidden."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(UNSET)}
    count = str(threads)
    kept |= {"OMP_NUM_THREADS": count, "RAYON_NUM_THREADS": count, "TOKENIZERS_PARALLELISM": "true"}
    kept |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    return kept | ({"LD_PRELOAD": str(_hider())} if avx2 else {})


@cache
def _hider() -> Path:
    """Builds the library that hides instruction sets from a process."""
    library = ROOT / "target/bench/held_to_avx2.so"
    library.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(HIDE)], check=True)
    return library


def describe(threads: int, avx2: bool) -> dict:
    """Processor, visible instruction sets, memory, kernel and compiler."""
    cpu = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
    cpu = {name.strip(): value.strip() for name, value in cpu.items()}
    flags = set(cpu.get("flags", "").split())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    rustc = subprocess.run(["rustc", "--version"], stdout=subprocess.PIPE, text=True, check=False).stdout
    return {
        "processor": cpu.get("model name", platform.processor()),
        "family_model": f"{cpu.get('cpu family')}/{cpu.get('model')}",
        "cores": os.cpu_count(),
        "threads": threads,
        "seen": [title for title, flag in FEATURES.items() if flag in flags],
        "not_seen": [title for title, flag in FEATURES.items() if flag not in flags],
        "memory_gib": round(memory / 2**30),
        "kernel": platform.release(),
        "rust": " ".join(rustc.split()[1:2]),
        "python": platform.python_version(),
        "held_to_avx2": avx2,
    }
