"""The status of an agent as metrics that Prometheus reads, on an address of the user's choice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dimat.errors import ConfigError
from dimat.exchange.network.hosts import split_address

_GAUGES = {
    "round": ("round", "The last round that is done."),
    "rounds": ("rounds", "The last round of the run."),
    "accuracy": ("accuracy", "Test accuracy when last measured, from 0 to 1."),
    "score": ("score", "Main test metric when last measured, of tasks other than classification."),
    "disagreement": ("disagreement", "Distance from the aligned neighbors before the last merge."),
    "match_seconds": ("match_s", "Seconds that the last merge spent matching."),
    "merge_seconds": ("merge_s", "Seconds that the last merge spent combining."),
    "training_seconds": ("train_s", "Seconds that the last local training took."),
    "certificate_expiry_timestamp_seconds": ("certificate_until", "When its certificate ends."),
}
_COUNTERS = {
    "sent_bytes": ("sent_bytes", "Bytes of messages sent."),
    "received_bytes": ("received_bytes", "Bytes of messages received."),
}


def serve_metrics(address: str, status: Callable[[], Mapping[str, Any]]) -> Callable[[], None]:
    """Serve an agent's status as metrics, on one address and nowhere else.

    Args:
        address: HOST:PORT.
        status: Gives the status whenever somebody asks.

    Returns:
        A function that ends it.

    Raises:
        ConfigError: If it cannot listen there.
    """
    place = split_address(address)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Status(status))
    try:
        if place is None:
            raise OSError("no address")
        server, thread = start_http_server(place[1], place[0], registry)
    except OSError as error:
        raise ConfigError(
            f"setting 'metrics': {address} cannot be listened on: must be HOST:PORT, an address "
            "of this machine and a free port"
        ) from error

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return end


class _Status(Collector):
    """The status, read anew at each scrape."""

    def __init__(self, status: Callable[[], Mapping[str, Any]]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Every metric of the moment; what is not known is left out."""
        found = self._status()
        for name, (key, told) in _GAUGES.items():
            if found.get(key) is not None:
                yield GaugeMetricFamily(f"dimat_{name}", told, found[key])
        for name, (key, told) in _COUNTERS.items():
            if found.get(key) is not None:
                yield CounterMetricFamily(f"dimat_{name}", told, found[key])
        yield self._each(
            GaugeMetricFamily(
                "dimat_neighbor_up", "Whether the edge carries.", labels=["neighbor"]
            ),
            {(j,): own["link"] == "up" for j, own in found["neighbors"].items()},
        )
        yield self._each(
            CounterMetricFamily("dimat_exchanges", "Exchanges that counted.", labels=["neighbor"]),
            {(j,): times for j, times in found["exchanged"].items()},
        )
        told = "Exchanges that did not count, or on one side only."
        yield self._each(
            CounterMetricFamily("dimat_incidents", told, labels=["neighbor", "what"]),
            {(j, w): n for j, own in found["incidents"].items() for w, n in own.items()},
        )
        yield self._each(
            CounterMetricFamily(
                "dimat_refused_calls", "Calls that were refused.", labels=["cause"]
            ),
            {(cause,): times for cause, times in found["refused"].items()},
        )

    def _each(
        self,
        family: GaugeMetricFamily | CounterMetricFamily,
        values: Mapping[tuple[str, ...], float],
    ) -> Metric:
        for labels, value in values.items():
            family.add_metric(labels, float(value))
        return family
