"""Turns the figures of a run into Markdown: medians over the rounds, ratios to nginx taken
within each round."""

import sys
from collections import defaultdict
from statistics import median

NAMES = {
    "direct": "no proxy at all",
    "nginx": "nginx",
    "hyper": "hyper pass-through, a runtime per core",
    "fastapi": "FastAPI + httpx",
    "service": "**service**",
    "service-jsonata": "service, JSONata response transform",
    "service-cached": "service, cached answers",
    "service-full": "service, `journalSync: full`",
    "service-postgres": "service on PostgreSQL",
}


def read_pairs(line, separator):
    return dict(pair.split("=", 1) for pair in line.rstrip("\n").split(separator))


def read_figures(path):
    """Figures by target and connections, one for each round."""
    figures = defaultdict(list)
    for line in open(path):
        row = read_pairs(line, " ")
        requests, micros = int(row["requests"]), int(row["duration_us"])
        figures[row["target"], int(row["connections"])].append(
            {
                "rate": requests * 1e6 / micros,
                "p50": int(row["p50_us"]),
                "p99": int(row["p99_us"]),
                "cpu": int(row["cpu_us"]) / max(requests, 1),
                "resident": int(row["resident_kib"]) / 1024,
            }
        )
    return figures


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def share(value):
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


class Report:
    def __init__(self, figures, conditions):
        self.figures, self.conditions = figures, conditions
        measured = {target for target, _ in figures}
        self.targets = [target for target in NAMES if target in measured]
        self.connections = sorted({connections for _, connections in figures})

    def middle(self, target, connections, figure):
        return median(row[figure] for row in self.figures[target, connections])

    def to_nginx(self, target, connections, figure):
        rounds = zip(self.figures[target, connections], self.figures["nginx", connections])
        return median(own[figure] / nginx[figure] for own, nginx in rounds)

    def nearest(self, wanted):
        return min(self.connections, key=lambda connections: abs(connections - wanted))

    def rates(self):
        main = self.nearest(64)
        head = ["target", *(f"at {n}" for n in self.connections), f"CPU µs a call at {main}"]
        rows = [
            [
                NAMES[target],
                *(share(self.to_nginx(target, n, "rate")) for n in self.connections),
                f"{self.middle(target, main, 'cpu'):.0f}",
            ]
            for target in self.targets
        ]
        return table(head, rows)

    def absolute(self):
        head = ["target", *(f"at {n}" for n in self.connections)]
        rows = [
            [NAMES[target], *(f"{self.middle(target, n, 'rate'):,.0f}" for n in self.connections)]
            for target in self.targets
        ]
        return table(head, rows)

    def latencies(self):
        head = ["target", *(f"at {n}" for n in self.connections)]
        rows = [
            [
                NAMES[target],
                *(f"{self.middle(target, n, 'p50'):,.0f} / {self.middle(target, n, 'p99'):,.0f}" for n in self.connections),
            ]
            for target in self.targets
        ]
        return table(head, rows)

    def summary(self):
        few, some, many = self.nearest(1), self.nearest(16), self.nearest(256)
        lines = []
        for target in self.targets:
            if not target.startswith("service"):
                continue
            rounds = zip(self.figures[target, few], self.figures["nginx", few])
            added = median(own["p50"] - nginx["p50"] for own, nginx in rounds)
            peak = max(row["resident"] for row in self.figures[target, many])
            idle = int(self.conditions[f"idle_kib.{target}"]) / 1024
            lines.append(
                [
                    NAMES[target],
                    f"{added:.0f} µs",
                    f"{self.to_nginx(target, some, 'p99'):.1f}×",
                    f"{idle:.0f} MB",
                    f"{peak:.0f} MB",
                ]
            )
        head = [
            "target",
            f"p50 over nginx's at {few}",
            f"p99 against nginx's at {some}",
            "resident, idle",
            f"resident at {many}",
        ]
        return table(head, lines)

    def text(self):
        c = self.conditions
        versions = ", ".join(f"{name} {c[name]}" for name in ("service", "nginx", "wrk") if name in c)
        if "postgres" in c:
            versions += f", PostgreSQL {c['postgres']}"
        if "python" in c:
            versions += f", Python {c['python']}"
        return "\n\n".join(
            [
                f"{c['date']}; {c['cores']} cores ({c['processor']}) shared by load, targets and upstream; {c['kernel']}; "
                f"{versions}; {c['rounds']} rounds of {c['seconds']} s each, interleaved; load average before: "
                f"{c['load_before']}.",
                "Calls a second as a share of nginx's, by connections:",
                self.rates(),
                "Calls a second:",
                self.absolute(),
                "Latency in µs, p50 / p99:",
                self.latencies(),
                "The service:",
                self.summary(),
            ]
        )


def main():
    conditions = dict(line.rstrip("\n").split("=", 1) for line in open(sys.argv[2]))
    print(Report(read_figures(sys.argv[1]), conditions).text())


if __name__ == "__main__":
    main()
