"""What a machine has for a job."""

from pathlib import Path

import psutil
import pytest

from worker.shared import cgroup, gpus, hardware
from worker.shared.gpus import Gpu

GIB = 2**30
H200 = Gpu("0", "GPU-8f3a", 140 * GIB, 100 * GIB, (9, 0))
T4 = Gpu("1", "GPU-1c2b", 15 * GIB, 15 * GIB, (7, 5))


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "list_gpus", lambda: [H200, T4])


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("name", "memory", "bfloat16"),
    [("0", 100 * GIB, True), ("1", 15 * GIB, False), ("GPU-1c", 15 * GIB, False), ("MIG-7", None, True)],
)
def test_a_job_has_the_gpu_of_its_slot_and_what_others_left_of_it(
    name: str, memory: int | None, bfloat16: bool
) -> None:
    machine = hardware.machine_for(name)
    assert (machine.gpu, machine.memory_bytes, machine.bfloat16) == (True, memory, bfloat16)


@pytest.mark.usefixtures("two_gpus")
def test_a_worker_registers_what_each_of_its_gpus_has() -> None:
    both, one = (hardware.worker_resources(names, slots=2) for names in (["0", "1"], ["0"]))
    assert (both["gpu_memory_bytes"], both["bfloat16"]) == (15 * GIB, False)
    assert (one["gpu_memory_bytes"], one["bfloat16"]) == (140 * GIB, True), "not the one that it may not use"


def test_jobs_side_by_side_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    own = psutil.Process().memory_info().rss
    monkeypatch.setattr(cgroup, "limit_bytes", lambda: own + 4 * GIB)
    one, two = (hardware.memory_for_job(slots=slots) for slots in (1, 2))
    assert abs(one - 4 * GIB) < 256 << 20, "less this process"
    assert abs(two - one // 2) < 32 << 20


def test_other_work_in_the_group_leaves_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "available_bytes", lambda: GIB)
    machine = hardware.machine_for(None)
    assert (machine.gpu, machine.memory_bytes) == (False, GIB)


def test_what_the_driver_prints_is_read() -> None:
    printed = (
        "0, GPU-8f3a, 143771, 143100, 9.0, NVIDIA H200, Disabled\n"
        "1, GPU-1c2b, 15360, 15101, 7.5, Tesla T4, [N/A]\n"
        "2, GPU-aa, [N/A], [N/A], [N/A], [N/A], [N/A]\n"
    )
    first, second, third = gpus.parse_gpus(printed)
    assert (first.total_bytes, first.capability, first.bfloat16) == (143771 << 20, (9, 0), True)
    assert first.model == "NVIDIA H200"
    assert (second.index, second.free_bytes, second.bfloat16) == ("1", 15101 << 20, False)
    assert (third.total_bytes, third.bfloat16) == (None, False), "it shares the machine's memory"


def test_a_partitioned_gpu_is_its_slices() -> None:
    printed = (
        "0, GPU-8f3a, 81920, 80000, 8.0, NVIDIA A100-SXM4-80GB, Enabled\n"
        "1, GPU-1c2b, 40960, 40000, 8.0, NVIDIA A100-SXM4-40GB, Disabled\n"
    )
    listed = (
        "GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-8f3a)\n"
        "  MIG 3g.40gb     Device  0: (UUID: MIG-c6d4)\n"
        "  MIG 1g.10gb+me  Device  1: (UUID: MIG-cba6)\n"
        "  MIG 1c.2g.20gb  Device  2: (UUID: MIG-77aa)\n"
        "GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-1c2b)\n"
    )
    found = gpus.with_slices(gpus.parse_gpus(printed), listed)
    sizes = {gpu.index: (gpu.total_bytes or 0) // 10**9 for gpu in found}
    assert sizes == {"MIG-c6d4": 40, "MIG-cba6": 10, "MIG-77aa": 20, "1": 42}
    assert all(gpu.bfloat16 for gpu in found)


def test_a_worker_takes_the_slices_of_a_partitioned_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    slices = [Gpu(name, name, 10 * 10**9, None, (8, 0)) for name in ("MIG-c6d4", "MIG-cba6")]
    monkeypatch.setattr(gpus, "list_gpus", lambda: slices)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus.visible_gpus() == ["MIG-c6d4", "MIG-cba6"]
    assert hardware.machine_for("MIG-cba6").memory_bytes == 10 * 10**9
    assert hardware.machine_for("0").memory_bytes is None, "one of the slices, nobody knows which"


@pytest.mark.parametrize(
    ("variable", "visible"),
    [
        ("", []),
        ("-1", []),
        ("1, 0", ["1", "0"]),
        ("0,-1,1", ["0"]),
        ("NoDevFiles", []),
        ("MIG-7,GPU-8f", ["MIG-7", "GPU-8f"]),
    ],
)
def test_a_worker_takes_the_gpus_that_cuda_would_show(
    variable: str, visible: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert gpus.visible_gpus() == visible


def test_a_gpu_that_shares_the_machines_memory_has_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "list_gpus", lambda: [Gpu("0", "GPU-b1", None, None, (12, 1))])
    monkeypatch.setattr(cgroup, "available_bytes", lambda: GIB)
    assert hardware.machine_for("0").memory_bytes == GIB


def a_group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def of(proc: Path, *lines: str) -> Path:
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("".join(f"{line}\n" for line in lines))
    return proc


def test_limits_of_version_2_hold_in_the_group_and_those_above(tmp_path: Path) -> None:
    proc, root = of(tmp_path / "proc", "0::/system.slice/attune.service"), tmp_path / "cgroup"
    a_group(root / "system.slice", memory__max=3 * GIB, memory__current=2 * GIB)
    a_group(
        root / "system.slice" / "attune.service",
        memory__max="max",
        memory__high=4 * GIB,
        memory__current=2 * GIB,
        memory__stat=f"anon {GIB}\ninactive_file {GIB // 2}\nactive_file {GIB // 2}",
        memory__events="low 0\noom_kill 3",
    )
    assert cgroup.limit_bytes(proc, root) == 3 * GIB
    assert cgroup.available_bytes(proc, root) == GIB, "of the slice, where others count, too"
    assert cgroup.out_of_memory_kills(proc, root) == 3


def test_limits_of_version_1_and_a_container_that_sees_its_group_at_the_top(tmp_path: Path) -> None:
    proc, root = of(tmp_path / "proc", "5:cpu:/docker/1f", "4:memory:/docker/1f", "0::/"), tmp_path / "cgroup"
    stat = f"inactive_file 0\ntotal_inactive_file {GIB}\ntotal_active_file 0"
    a_group(
        root / "memory",
        memory__limit_in_bytes=2 * GIB,
        memory__usage_in_bytes=2 * GIB - 100,
        memory__stat=stat,
        memory__oom_control="oom_kill_disable 0\noom_kill 1",
    )
    (proc / "vmstat").write_text("pgfault 5\noom_kill 2\n")
    assert cgroup.limit_bytes(proc, root) == 2 * GIB
    assert cgroup.available_bytes(proc, root) == GIB + 100
    assert cgroup.out_of_memory_kills(proc, root) == 2


def test_without_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert cgroup.limit_bytes(tmp_path, tmp_path) is None
    assert cgroup.available_bytes(tmp_path, tmp_path) is None
    assert cgroup.out_of_memory_kills(tmp_path, tmp_path) == 0


@pytest.mark.parametrize(
    ("vendor", "flags", "trains"),
    [
        ("AuthenticAMD", "avx512f avx512_bf16", True),
        ("GenuineIntel", "avx512f avx512_bf16", False),
        ("GenuineIntel", "avx512f avx512_bf16 amx_bf16", True),
        ("AuthenticAMD", "avx512f", False),
    ],
)
def test_a_processor_trains_in_bfloat16_where_that_is_no_slower(
    vendor: str, flags: str, trains: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_processor", lambda: f"vendor_id : {vendor}\nflags : {flags}\n")
    assert hardware.machine_for(None).bfloat16 is trains
    assert hardware.cpu_multiplies_bfloat16() is ("bf16" in flags)
