"""OpenTelemetry spans from enqueueing to the last commit, where somebody has said where to send them.

`PORTRAITS_TRACES_ENDPOINT`, or one of OpenTelemetry's own variables, says so; without, nothing of it is imported. A job
keeps the W3C trace context of its enqueueing, and every worker's spans of its units join that trace. Spans carry ids,
counts and codes: no prompt, name, photo or address. A collector that is away costs no picture: spans are sent from a
thread of their own, and dropped when too many wait.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from jobs.errors import SettingsInvalid
from jobs.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

log = logging.getLogger(__name__)
PATH = "/v1/traces"
SEND_SECONDS = 3.0
"""How long one try to send spans may take: `enqueue` waits for the last one before it ends."""
_OWN_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_providers: dict[tuple[int, str, str], TracerProvider] = {}


def endpoint(settings: Settings, environment: Mapping[str, str] = os.environ) -> str:
    """Where spans are sent; empty: nowhere."""
    is_off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if is_off or environment.get("OTEL_TRACES_EXPORTER", "otlp") not in {"", "otlp"}:
        return ""
    if settings.traces_endpoint:
        return settings.traces_endpoint.rstrip("/").removesuffix(PATH) + PATH
    whole, base = (environment.get(name, "") for name in _OWN_VARIABLES)
    return whole or (base.rstrip("/") + PATH if base else "")


def tracer(settings: Settings, service: str) -> Tracer | None:
    """What makes spans for this part of the product (`enqueue`, `worker`); None where nobody wants them.

    Raises SettingsInvalid where our own setting asks for spans and the extra is not installed. Where OpenTelemetry's
    variables ask, which may be meant for others, that is a warning.
    """
    target = endpoint(settings)
    if not target:
        return None
    try:
        provider = _provider(target, service)
    except ImportError as error:
        needed = f"spans for {target} need `pip install 'hyperlora-portraits[telemetry]'`; not installed: {error.name}"
        if settings.traces_endpoint:
            raise SettingsInvalid(f"PORTRAITS_TRACES_ENDPOINT is set: {needed}") from error
        log.warning("no spans are sent: %s", needed)
        return None
    return provider.get_tracer("portraits")


def _provider(target: str, service: str) -> TracerProvider:
    """The one of this process; a forked child makes its own, as it has none of its parent's threads."""
    key = (os.getpid(), target, service)
    if key not in _providers:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        name = os.environ.get("OTEL_SERVICE_NAME") or f"portraits-{service}"
        resource = Resource.create({"service.name": name, "service.version": _version()})
        provider = TracerProvider(resource=resource)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=target, timeout=SEND_SECONDS)))
        _providers[key] = provider
    return _providers[key]


@contextmanager
def span(source: Tracer | None, name: str, **attributes: Any) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A span around this block, under whatever is current; yields what adds attributes to it."""
    if source is None:
        yield lambda more: None
        return
    with source.start_as_current_span(name, attributes=named(attributes)) as current:
        yield lambda more: current.set_attributes(named(more))


def traceparent() -> str | None:
    """The W3C trace context of the span that is current here, ours or the caller's; None where there is none."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry.trace import get_current_span

    context = get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def flush() -> None:
    """Send what waits, as this process ends; for a few seconds at most."""
    for (pid, *_), provider in list(_providers.items()):
        if pid == os.getpid():
            provider.force_flush(round(1000 * SEND_SECONDS))


def parent_of(traceparent: str | None) -> Any:
    """The OpenTelemetry context of a job's stored trace context; an empty one where there is none that can be read."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if traceparent is None or not _TRACEPARENT.fullmatch(traceparent):
        return Context()
    return TraceContextTextMapPropagator().extract({"traceparent": traceparent}, context=Context())


def named(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes under our own prefix, ids as texts; what is None is left out."""
    plain = (str, bool, int, float)
    told = {name: value for name, value in attributes.items() if value is not None}
    return {f"portraits.{name}": value if isinstance(value, plain) else str(value) for name, value in told.items()}


def _version() -> str:
    try:
        return version("hyperlora-portraits")
    except PackageNotFoundError:
        return "0+unknown"
