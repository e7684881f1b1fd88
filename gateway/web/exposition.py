"""The metrics of the whole gateway in Prometheus' text format, in time whatever hangs.

Files are read and text is written in a thread: calls wait for the event loop. Two scrapes at once
share one reading. If it is late, the answer is the last text of this worker. Before there is one it
has this worker's gauges and no counter: a total lower than the one before is taken for a restart.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway import __version__
from gateway.core.errors import StorageUnavailable
from gateway.storage.registry import LedgerSize, Registry
from gateway.web.metrics import BREAKER_OPEN, Metrics
from gateway.web.metrics_files import read_families
from gateway.web.process_gauges import ProcessGauges
from gateway.web.shared import Shared

log = structlog.get_logger()

# Both run side by side, so that the answer is there within 100 ms.
READ_TIMEOUT_S = 0.08
LEDGER_TIMEOUT_S = 0.05


@dataclass(slots=True)
class Exposition:
    """Answers scrapes."""

    metrics: Metrics
    gauges: ProcessGauges
    registry: Registry
    read_timeout_s: float = READ_TIMEOUT_S
    ledger_timeout_s: float = LEDGER_TIMEOUT_S
    _reading: Shared[bytes] = field(init=False)
    _asking: Shared[LedgerSize | None] = field(init=False)
    _last_text: bytes | None = None
    _last_ledger: LedgerSize | None = None
    _is_late: bool = False

    def __post_init__(self) -> None:
        self._reading = Shared(self._read)
        self._asking = Shared(self._ask_ledger_size)

    async def text(self) -> bytes:
        """All metrics of all workers, and the size of the ledger."""
        self.metrics.try_flush(self.gauges.set)
        shared, ledger = await asyncio.gather(self._shared_text(), self._ledger_text())
        return shared + ledger

    @asynccontextmanager
    async def kept_current(self) -> AsyncIterator[None]:
        """Publish what this process counts for as long as this is open, and at its end."""
        set_gauges, loop_lag = self.gauges.set, self.gauges.loop_lag
        work = (self.metrics.keep_flushing(set_gauges), loop_lag.keep_measuring())
        tasks = [asyncio.create_task(each) for each in work]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self.metrics.try_flush(set_gauges)
            # What is still read has deadlines of its own.
            await self._reading.finish()
            await self._asking.finish()

    async def _shared_text(self) -> bytes:
        try:
            text = await self._reading.value(self.read_timeout_s)
        except OSError as error:  # TimeoutError among them
            if not self._is_late:
                log.warning("metrics_not_read", cause=type(error).__name__)
            self._is_late = True
            return self._last_text or _text(self._own_gauges())
        self._is_late = False
        return text

    async def _read(self) -> bytes:
        self._last_text = await asyncio.to_thread(self._text_of_all)
        return self._last_text

    def _text_of_all(self) -> bytes:
        folder = self.metrics.folder
        families = read_families(folder) if folder else self.metrics.registry.collect()
        return _text([*families, _build_info()])

    def _own_gauges(self) -> list[Metric]:
        return [each for each in self.metrics.registry.collect() if each.type == "gauge"]

    async def _ledger_text(self) -> bytes:
        """The ledger's size as it was last, if it is late; nothing while the database is away."""
        try:
            size = await self._asking.value(self.ledger_timeout_s)
        except TimeoutError:
            size = self._last_ledger
        return b"" if size is None else _text(_ledger_gauges(size))

    async def _ask_ledger_size(self) -> LedgerSize | None:
        try:
            self._last_ledger = await self.registry.ledger_size()
        except StorageUnavailable:
            self._last_ledger = None
        return self._last_ledger


class _Families(Collector):
    """Families that are there already, in the order in which they are read by people."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from sorted(self._families, key=_place)


def _place(family: Metric) -> tuple[bool, bool, str]:
    return family.name != BREAKER_OPEN, family.type != "gauge", family.name


def _text(families: Sequence[Metric]) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Families(families))
    return bytes(generate_latest(registry))


def _ledger_gauges(size: LedgerSize) -> list[Metric]:
    return [
        GaugeMetricFamily(
            "gateway_ledger_rows", "Rows of the ledger, estimated.", size.rows_estimate
        ),
        GaugeMetricFamily("gateway_ledger_size_bytes", "The ledger on disk.", size.size_bytes),
    ]


def _build_info() -> Metric:
    return InfoMetricFamily("gateway_build", "The running version.", {"version": __version__})
