"""What Prometheus reads at /metrics, in its text format (version 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from dhox.serve.answers import ModelAnswer, ModelEntry

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
STAGES = ("decode", "model", "all")


@dataclass
class Histogram:
    """Counts by bucket, the last one without an upper bound, and the sum in seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one value; a bound belongs to its bucket."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def lines(self, name: str, labels: dict[str, str]) -> Iterator[str]:
        """The cumulative buckets, the sum and the count."""
        below = 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            below += count
            yield sample(f"{name}_bucket", labels | {"le": bound}, below)
        yield sample(f"{name}_sum", labels, self.total)
        yield sample(f"{name}_count", labels, below)


class Metrics:
    """Counted in one thread, that of the server's event loop."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.requests: Counter[tuple[str, str]] = Counter()  # (path, status)
        self.stages: defaultdict[tuple[str, str], Histogram] = defaultdict(Histogram)  # (model, stage)
        self.answered = self.unreadable = 0  # images
        self.unknown: Counter[str] = Counter()  # by model

    def count(self, answers: list[ModelAnswer]) -> None:
        """Count an image that was answered."""
        self.answered += 1
        for answer in answers:
            self.unknown[answer.model] += answer.unknown
            for stage in STAGES:
                self.stages[answer.model, stage].observe(getattr(answer.latency_ms, stage) / 1000)

    def text(self, models: list[ModelEntry]) -> str:
        """The page that Prometheus reads."""
        return "".join(f"{line}\n" for line in self._lines(models))

    def _lines(self, models: list[ModelEntry]) -> Iterator[str]:
        yield from head("dhox_requests_total", "counter", "Requests by path and status.")
        for (path, status), count in sorted(self.requests.items()):
            yield sample("dhox_requests_total", {"path": path, "status": status}, count)
        yield from head("dhox_requests_in_flight", "gauge", "Requests that are not answered yet.")
        yield sample("dhox_requests_in_flight", {}, self.in_flight)
        yield from head("dhox_images_total", "counter", "Images by result: answered, or not readable.")
        yield sample("dhox_images_total", {"result": "answered"}, self.answered)
        yield sample("dhox_images_total", {"result": "unreadable"}, self.unreadable)
        yield from head("dhox_unknown_total", "counter", "Answers below the reject threshold of a model.")
        for model in models:
            yield sample("dhox_unknown_total", {"model": model.name}, self.unknown[model.name])
        yield from head("dhox_stage_seconds", "histogram", "Seconds per image by model and stage.")
        for (name, stage), histogram in sorted(self.stages.items()):
            yield from histogram.lines("dhox_stage_seconds", {"model": name, "stage": stage})
        yield from head("dhox_model_info", "gauge", "The models that are served; always 1.")
        for model in models:
            labels = {"file": model.file, "model": model.name, "precision": model.precision, "runner": model.runner}
            yield sample("dhox_model_info", labels, 1)


def head(name: str, kind: str, words: str) -> tuple[str, str]:
    """What a metric is."""
    return f"# HELP {name} {words}", f"# TYPE {name} {kind}"


def sample(name: str, labels: dict[str, str], value: float) -> str:
    """One line; label values are escaped as the format wants it."""
    inner = ",".join(f'{key}="{escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{inner}}} {value}" if inner else f"{name} {value}"


def escaped(text: str) -> str:
    """The value of a label between its quotes."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
