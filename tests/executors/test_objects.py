"""Compiled kernels on disk: used when whole and ours, made again otherwise, never in the way."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from coproc.config import Config, default_cache_directory
from coproc.executors.cpu import CpuExecutor
from coproc.executors.cpu.compiler import Library
from coproc.executors.cpu.emitter import Function, module
from coproc.executors.cpu.kernel import Kernel
from coproc.executors.cpu.objects import MOST_OBJECTS, ObjectCache
from coproc.executors.golden import GOLDEN, golden_digests

CONTENT = b"an object" * 1000


def never() -> bytes:
    raise AssertionError("compiled again")


@pytest.fixture
def cache(tmp_path: Path) -> ObjectCache:
    return ObjectCache(tmp_path / "some" / "folder")


def the_file(cache: ObjectCache) -> Path:
    (path,) = cache.directory.iterdir()
    return path


def test_what_was_made_once_is_read_from_then_on(cache: ObjectCache) -> None:
    assert cache.get(b"key", lambda: CONTENT) == CONTENT
    assert cache.get(b"key", never) == CONTENT
    assert cache.get(b"other key", lambda: b"other") == b"other"
    assert cache.directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", [b"", CONTENT[:50], b"\0" * 32 + CONTENT])
def test_a_damaged_object_is_made_again_and_repaired(cache: ObjectCache, damage: bytes) -> None:
    cache.get(b"key", lambda: CONTENT)
    the_file(cache).write_bytes(damage)
    assert cache.get(b"key", lambda: CONTENT) == CONTENT
    assert cache.get(b"key", never) == CONTENT


def test_a_folder_that_others_may_write_to_is_not_trusted(cache: ObjectCache) -> None:
    cache.get(b"key", lambda: CONTENT)
    cache.directory.chmod(0o777)
    assert cache.get(b"key", lambda: b"compiled") == b"compiled"
    cache.directory.chmod(0o700)
    the_file(cache).chmod(0o666)
    assert cache.get(b"key", lambda: b"compiled") == b"compiled"


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = ObjectCache(tmp_path / "file" / "below")
    assert [cache.get(b"key", lambda: CONTENT) for _ in range(2)] == [CONTENT, CONTENT]


def test_many_writers_at_once_leave_one_whole_object(cache: ObjectCache) -> None:
    def run(_: int) -> bytes:
        return cache.get(b"key", lambda: CONTENT)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(run, range(64)))
    assert set(results) == {CONTENT}
    assert cache.get(b"key", never) == CONTENT
    assert the_file(cache).suffix == ".object"


def test_old_objects_and_abandoned_writes_go(cache: ObjectCache) -> None:
    for number in range(MOST_OBJECTS):
        cache.get(bytes([number]), lambda: CONTENT)
    for path in cache.directory.iterdir():
        os.utime(path, (1e9, 1e9))
    cache.get(b"\0", never)  # used again, so it stays
    (cache.directory / "left.partial").write_bytes(b"")
    os.utime(cache.directory / "left.partial", (1e9, 1e9))
    cache.get(b"one more", lambda: CONTENT)
    assert len(list(cache.directory.iterdir())) == MOST_OBJECTS
    assert cache.get(b"\0", never) == CONTENT


def test_a_kernel_from_disk_gives_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        Kernel.forget()
        assert golden_digests(CpuExecutor(1, cache=tmp_path), "toy") == GOLDEN["toy"]
        monkeypatch.setattr(Library, "_compile", staticmethod(never))
    Kernel.forget()


def test_other_code_and_other_instruction_sets_have_objects_of_their_own(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path)
    texts = [module([Function(name, [], exported=True)]) for name in ("one", "two")]
    for text in texts:
        for _ in range(2):
            Library(text, "baseline", cache)
    assert len(list(tmp_path.iterdir())) == 2
    Library(texts[0], CpuExecutor(1).isa, cache)
    assert len(list(tmp_path.iterdir())) == 3 - (CpuExecutor(1).isa == "baseline")


def test_code_is_loaded_where_free_memory_lies_far_apart() -> None:
    command = [sys.executable, "-m", "tests.executors.crowded_memory"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr


def test_the_folder_is_the_users_for_caches_or_what_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_directory() == tmp_path / "coproc"
    monkeypatch.setenv("COPROC_CACHE_DIRECTORY", str(tmp_path / "elsewhere"))
    assert Config().cache_directory == tmp_path / "elsewhere"
