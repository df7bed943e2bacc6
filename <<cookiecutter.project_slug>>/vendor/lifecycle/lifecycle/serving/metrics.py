"""Metrics for Prometheus."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from .follow import LedgerFollower
    from .loader import Loader
    from .log import Log

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """The counters of one server, in a separate registry."""

    def __init__(self, loader: "Loader", log: "Log", ledger: "LedgerFollower") -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "serving_requests",
            "Requests by how they ended: ok, invalid, foreign (Host, Origin), unauthorised, gone, unready, failed.",
            ["channel", "outcome"],
            registry=self.registry,
        )
        self.rows = Counter("serving_predictions", "Rows answered.", ["channel", "release"], registry=self.registry)
        self.seconds = Histogram(
            "serving_seconds",
            "From the body being there to the answer, of requests that were answered.",
            ["channel"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.canary_failures = Counter(
            "serving_canary_failures",
            "Requests that a canary failed at, and production answered: error, slow, open (its breaker).",
            ["reason"],
            registry=self.registry,
        )
        self.disagreeing = Counter(
            "serving_disagreeing",
            "Rows with other features than the online table has for their key: no evidence for monitor or rollout.",
            ["channel"],
            registry=self.registry,
        )
        self.shadow_dropped = Counter(
            "serving_shadow_dropped", "Requests that a shadow was too slow for.", registry=self.registry
        )
        self.registry.register(_State(loader, log, ledger))


class _State(Collector):
    """State that is read when Prometheus scrapes."""

    def __init__(self, loader: "Loader", log: "Log", ledger: "LedgerFollower") -> None:
        self._loader = loader
        self._log = log
        self._ledger = ledger

    def collect(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        """Yield one metric family for each value."""
        table, problems = self._loader.table, self._loader.problems()
        channels = GaugeMetricFamily(
            "serving_channel", "The generation of what a channel serves here.", labels=["channel", "release"]
        )
        breakers = GaugeMetricFamily("serving_breaker_open", "1: it is left alone.", labels=["channel"])
        for channel in table.channels:
            channels.add_metric([channel.name, channel.release_id], channel.generation)
            breakers.add_metric([channel.name], channel.breaker.is_open)
        behind = GaugeMetricFamily(
            "serving_behind", "1: the channel should serve something else, which was refused.", labels=["channel"]
        )
        for name in ("production", "canary"):
            behind.add_metric([name], name in problems)
        asked = GaugeMetricFamily(
            "serving_ledger_age_seconds", "Since the git remote last answered; absent if it never has.", labels=[]
        )
        if (age := self._ledger.age()) is not None:
            asked.add_metric([], age)
        labels = ["online", "features", "release"]
        newest = GaugeMetricFamily("serving_online_age_seconds", "Since its newest row.", labels=labels)
        rows = GaugeMetricFamily("serving_online_rows", "Rows of the online table.", labels=labels)
        for each in table.online.tables:
            told = [each.digest, each.about.features_md5, each.about.release or ""]
            rows.add_metric(told, each.about.rows)
            if (hours := each.age_hours()) is not None:
                newest.add_metric(told, hours * 3600)
        damaged = GaugeMetricFamily(
            "serving_online_behind", "1: an online table should be used that cannot be.", bool(table.online.problem)
        )
        waiting = GaugeMetricFamily("serving_log_waiting", "Rows that are not on the disk yet.", self._log.waiting)
        dropped = CounterMetricFamily("serving_log_dropped", "Rows that were not logged.", self._log.dropped)
        return [channels, breakers, behind, asked, newest, rows, damaged, waiting, dropped]
