"""Peak memory of a piece of work, in bytes allocated by torch, and a limit on it."""

import gc
import json
import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # above all levels: silences the profiler


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """The largest number of live bytes among those allocated during the work, which includes what it builds.

    On a GPU the caching allocator counts. On a CPU the profiler records every allocation and release by torch, so that
    the number does not depend on other processes; memory of libraries (code, MKL's buffers, Python's objects) is not
    counted.
    """
    if device.type == "cuda":
        gc.collect()  # otherwise garbage of earlier work could be released during this
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return _highest(sorted((e["ts"], e["args"]) for e in events if e["name"] == "[memory]"))


def _highest(events) -> int:
    """The peak of live bytes; what was allocated before the record began does not count when it is released."""
    live: dict[int, int] = {}
    now = highest = 0
    for _, event in events:
        address, size = event["Addr"], event["Bytes"]
        if size > 0:
            live[address] = size
            now += size
            highest = max(highest, now)
        else:
            now -= live.pop(address, 0)
    return highest


def bound_memory(share: float = 0.9) -> None:
    """Limit the process to this share of the machine's memory.

    Too large a contestant then fails alone with an error, instead of the kernel killing the whole process.
    """
    limit = int(share * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))
