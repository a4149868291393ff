"""``coproc bench``: the performance suite.

Decides which benchmarks there are; each is a module of its own. Machines are shared and noisy: a ratio within one run
says more than a figure.
"""

from __future__ import annotations

import click

from coproc.cli.bench_chain import bench_chain
from coproc.cli.bench_circuits import bench_ops, bench_programs
from coproc.cli.bench_compare import bench_compare
from coproc.cli.bench_counts import bench_counts, bench_planning
from coproc.cli.bench_gpu import bench_gpu
from coproc.cli.bench_pbs import bench_pbs
from coproc.cli.bench_scale import bench_scale
from coproc.cli.bench_service import bench_service


@click.group()
def bench() -> None:
    """Measure this machine, or count what does not depend on one."""


for command in (
    bench_pbs,
    bench_ops,
    bench_programs,
    bench_service,
    bench_scale,
    bench_chain,
    bench_gpu,
    bench_counts,
    bench_planning,
    bench_compare,
):
    bench.add_command(command)
