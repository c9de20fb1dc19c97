"""What `bench --server` prints for people."""

from __future__ import annotations

from limpq_deploy.cli.output.latency import latency_table
from limpq_deploy.cli.output.tables import wrapped
from limpq_deploy.serving.server_latency import ServingReport, serving_details


def serving_lines(report: ServingReport) -> str:
    """Latency in this process and through a server, and what several clients got."""
    equal = "the same float32" if report.bit_equal else "NOT the same float32"
    found = report.throughput
    return "\n".join(
        (
            latency_table(report.latency),
            f"p50 through the server: {report.p50_overhead_ms:+.3f} ms; both give {equal}",
            f"{found.clients} clients: {found.images_per_second:,.0f} images/s, {found.failed} requests failed",
            *map(wrapped, serving_details(report)),
        )
    )
