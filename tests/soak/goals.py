"""The goals of each part, and whether they are reached."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """Limits of a figure of a part."""

    row: str
    """Row in the table of faults and threats."""
    part: str
    figure: str
    title: str
    least: float | None = None
    most: float | None = None
    size: bool = False
    """Is the figure the size of the run? A quick run is smaller."""

    @property
    def bound(self) -> str:
        """The limit as text."""
        if self.least is not None:
            return f"≥ {self.least:,g}" if self.least < 1e5 else f"≥ {self.least:,.0f}"
        return f"≤ {self.most:,g}" if self.most else "0"

    def is_reached_by(self, value: float) -> bool:
        """Is the limit kept? NaN does not keep it."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


GOALS = (
    Goal(
        "17",
        "answers",
        "requests",
        "concurrent requests, each response compared with its exchange's",
        50_000,
        size=True,
    ),
    Goal("17", "answers", "in flight", "… in flight at one time", 1_000),
    Goal("17", "answers", "wrong", "… answers wrong", most=0),
    Goal("17", "answers", "lost", "… requests lost", most=0),
    Goal("18", "overload", "times capacity", "open-loop load, times the measured peak", 10),
    Goal("18", "overload", "goodput, %", "… goodput, % of the peak, as it was before and is after", 80),
    Goal("18", "overload", "refused", "… refusals", 1_000, size=True),
    Goal("18", "overload", "refusals' p99, ms", "… refusals' p99, ms", most=50),
    Goal("18", "overload", "without Retry-After", "… refusals without Retry-After", most=0),
    Goal("18", "overload", "wrong", "… answers wrong, or neither 200 nor 503", most=0),
    Goal("18", "overload", "lost", "… requests lost", most=0),
    # Each of the 128 admitted requests has a response of 3.1 MB, which is copied once when it is sent.
    Goal("18", "overload", "MB above before", "… memory at its peak above that before, MB", most=800),
    Goal("18", "overload", "MB above the first half", "… memory at its peak above that of the first half, MB", most=50),
    Goal("18", "overload", "MB grown", "… memory grown afterwards, MB", most=50),
    Goal("18", "overload", "descriptors grown", "… descriptors grown", most=0),
    Goal("22", "faults", "killed", "workers killed under load", 5, size=True),
    Goal("22", "faults", "killed, failed", "… of their requests failed", 1),
    Goal("22", "faults", "killed, answered meanwhile", "… requests answered by the other worker meanwhile", 1),
    Goal("22", "faults", "killed, replaced, s", "… until a new one answered, s", most=10),
    Goal("22", "faults", "killed, failed, s", "… until the last of its requests had failed, s", most=1),
    Goal("22", "faults", "killed, hung", "… requests that hung", most=0),
    Goal("22", "faults", "killed, lost", "… requests lost at other workers", most=0),
    Goal("22", "faults", "wrong", "… answers wrong", most=0),
    Goal("22", "faults", "orphans left", "supervisor killed: processes left behind", most=0),
    Goal("22", "faults", "orphans' clients lost", "… requests lost", most=0),
    Goal("22", "faults", "orphans' wrong answers", "… answers wrong", most=0),
    Goal("23", "faults", "stuck, failed", "a worker stopped (SIGSTOP): of its requests failed", 1),
    Goal("23", "faults", "stuck, answered meanwhile", "… requests answered by the other worker meanwhile", 1),
    Goal("23", "faults", "stuck, replaced, s", "… until a new one answered, s", most=20),
    Goal("23", "faults", "stuck, hung", "… requests that hung", most=0),
    Goal("23", "faults", "stuck, lost", "… requests lost at other workers", most=0),
    Goal("23", "blocked", "replaced, s", "an event loop blocked by a request: until a new worker answered, s", most=20),
    Goal("23", "blocked", "good clients answered", "… other clients answered meanwhile", 10),
    Goal("23", "blocked", "/livez answered", "… /livez of that worker answered meanwhile", most=0),
    Goal("23", "blocked", "good clients lost", "… other clients not answered rightly in 5 s meanwhile", most=0),
    Goal("24", "stops", "stops", "stops (SIGTERM) under load", 100, size=True),
    Goal("24", "stops", "waiting", "… requests that waited for their response at the signal", 1_000, size=True),
    Goal("24", "stops", "right", "… answered rightly", 1_000, size=True),
    Goal("24", "stops", "lost", "… requests lost that were written before the signal", most=0),
    Goal("24", "stops", "wrong", "… answers wrong, or neither 200 nor 503 with Retry-After", most=0),
    Goal("24", "stops", "failed", "… exit status not 0, or processes left behind", most=0),
    Goal("24", "stops", "slowest, s", "… slowest, s", most=30),
    *(
        Goal("25", "slow", f"good clients, {mode}, %", f"slow {mode}: good clients answered rightly within 1 s, %", 99)
        for mode in ("headers", "body", "range", "read")
    ),
    *(
        Goal(
            "25", "slow", f"left, {mode}, %", f"… slow {mode}: connections not cut off after 60 s, %", most=1, size=True
        )
        for mode in ("headers", "body", "read")
    ),
    Goal("25", "slow", "steady readers cut off", "steady readers of 40 kB/s cut off", most=0),
    Goal("25", "slow", "descriptors grown", "… descriptors grown", most=0),
    Goal("26", "descriptors", "connections", "connections with 128 descriptors a process", 500),
    Goal("26", "descriptors", "answered", "… let in and answered meanwhile", 100),
    Goal("26", "descriptors", "recovered after, s", "… until the first new caller was answered afterwards, s", most=5),
    Goal("26", "descriptors", "good clients afterwards, %", "… new clients answered within 1 s afterwards, %", 100),
    Goal("26", "descriptors", "workers lost", "… workers lost", most=0),
    Goal("26", "descriptors", "descriptors grown", "… descriptors grown", most=0),
    Goal("27", "overload", "probes", "/livez and /readyz asked during the overload", 200, size=True),
    Goal("27", "overload", "probes' slowest, ms", "… slowest, ms", most=100),
    Goal("27", "overload", "probes failed", "… not answered with 200", most=0),
    Goal("28", "leak", "requests", "mixed requests", 1_000_000, size=True),
    Goal("28", "leak", "refusals", "… of them refused, as they should be", 20_000, size=True),
    Goal("28", "leak", "connections made anew", "… connections made anew", 10_000, size=True),
    Goal("28", "leak", "MB grown", "… memory grown, MB", most=50),
    Goal("28", "leak", "descriptors grown", "… descriptors grown", most=0),
    Goal("28", "leak", "wrong", "… answers wrong", most=0),
    Goal("28", "leak", "lost", "… requests lost", most=0),
    Goal("", "barrage", "bad inputs", "bad inputs", 100_000, size=True),
    Goal("", "barrage", "5xx", "… answered with 5xx", most=0),
    Goal("", "barrage", "5xx in the log", "… answered with 5xx as the access log tells it", most=0),
    Goal("", "barrage", "slower than 1 s", "… neither answered nor hung up on within 1 s", most=0),
    Goal("", "barrage", "without a response", "… well-framed ones hung up on without a response", most=0),
    Goal("", "barrage", "workers lost", "… workers lost", most=0),
    Goal("", "barrage", "wrong afterwards", "… answers wrong afterwards", most=0),
    Goal("", "barrage", "MB grown", "… memory grown, MB", most=50),
    Goal("", "barrage", "descriptors grown", "… descriptors grown", most=0),
    Goal("", "barrage", "attacks", "attacks on the event loop, memory and parsers", 2_000, size=True),
    Goal("", "barrage", "attacks answered wrongly", "… answered with an unexpected status, or not at all", most=0),
    Goal("", "barrage", "attacks, 5xx but 503", "… answered with 5xx other than 503", most=0),
    Goal("", "barrage", "attacks, /livez asked", "… /livez asked meanwhile", 1_000, size=True),
    Goal("", "barrage", "attacks, slowest /livez, ms", "… slowest, ms", most=500),
    Goal("", "barrage", "attacks, /livez failed", "… not answered with 200", most=0),
    Goal("", "barrage", "attacks, workers lost", "… workers lost", most=0),
    Goal("", "barrage", "attacks, lines that are not the log's", "… lines on stderr that are not the log's", most=0),
    Goal("", "barrage", "attacks, tracebacks", "… tracebacks in the log", most=0),
    Goal("", "loop", "attacks", "attacks and bad inputs while the event loops are timed", 4_000, size=True),
    Goal("", "loop", "longest gap, ms", "… longest time in which an event loop did nothing else, ms", most=250),
    Goal("", "loop", "answered wrongly", "… answered with an unexpected status, or not at all", most=0),
    Goal("", "loop", "workers lost", "… workers lost", most=0),
    Goal("", "memory", "clients", "clients whose requests and answers take much memory", 600, size=True),
    Goal("", "memory", "MB at most, % of the limit", "… a worker's memory at its peak, % of --memory-limit", most=120),
    Goal("", "memory", "refused", "… refused with 503", 1),
    Goal("", "memory", "refused, as counted", "… as vae_refusals_total counts them", 1),
    Goal("", "memory", "without Retry-After", "… without Retry-After", most=0),
    Goal("", "memory", "5xx but 503 and 504", "… answered with 5xx other than 503, and 504 after 30 s", most=0),
    Goal("", "memory", "lost", "… not answered", most=0),
    Goal("", "memory", "good clients, %", "… good clients answered rightly within 5 s, %", 100),
    Goal("", "memory", "bytes held afterwards", "… bytes charged afterwards", most=0),
    Goal("", "memory", "large requests afterwards, %", "… large requests answered afterwards, %", 100),
    Goal("", "memory", "workers lost", "… workers lost", most=0),
    Goal("", "parsers", "properties", "properties of parsers and routes, each with other inputs than in the tests", 20),
    Goal("", "parsers", "failed", "… that do not hold", most=0),
    *(
        Goal("", part, "tracebacks", f"tracebacks in the log ({part})", most=0)
        for part in (
            "answers",
            "overload",
            "faults",
            "blocked",
            "stops",
            "slow",
            "descriptors",
            "leak",
            "barrage",
            "loop",
            "memory",
        )
    ),
)
