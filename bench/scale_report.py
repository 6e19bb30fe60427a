"""Turns the figures of bench/scale into Markdown: medians over the rounds, and ratios taken within
each round."""

import sys
from collections import defaultdict
from statistics import median

from report import read_pairs, share, table

REQUESTS = {
    "list": "list of instances, first page",
    "list-last-page": "… the last page of 200",
    "list-newest": "… by the time of the last change",
    "list-by-definition": "… of one definition",
    "list-by-label": "… with a label",
    "search": "… whose name holds a text",
    "definitions": "list of definitions",
    "adapters": "adapters and how they fare",
    "metrics": "metrics",
    "change-instance": "change of an instance",
    "change-definition": "new version of a definition, published",
}


def read_figures(path):
    """Rows by what they tell and the target."""
    figures = defaultdict(list)
    for line in open(path):
        row = read_pairs(line, " ")
        figures[row["what"], row["target"]].append(row)
    return figures


class Report:
    def __init__(self, figures, conditions):
        self.figures, self.conditions = figures, conditions

    def values(self, what, target, figure):
        return [float(row[figure]) for row in self.figures[what, target]]

    def middle(self, what, target, figure):
        return median(self.values(what, target, figure))

    def rates(self, what, target):
        return [
            int(row["requests"]) * 1e6 / int(row["duration_us"]) for row in self.figures[what, target]
        ]

    def row(self, name, few, many, text, ratio):
        return [name, text(few), text(many), share(ratio)]

    def compared(self, name, what, figure, text):
        few, many = (self.middle(what, target, figure) for target in ("few", "many"))
        return self.row(name, few, many, text, many / few)

    def calls(self):
        few, many = self.rates("calls", "few"), self.rates("calls", "many")
        cpu = [
            median(int(row["cpu_us"]) / max(int(row["requests"]), 1) for row in self.figures["calls", target])
            for target in ("few", "many")
        ]
        ratio = median(b / a for a, b in zip(few, many))
        return [
            self.row("calls a second of instances by chance", median(few), median(many), "{:,.0f}".format, ratio),
            self.compared("… p50, µs", "calls", "p50_us", "{:,.0f}".format),
            self.compared("… p99, µs", "calls", "p99_us", "{:,.0f}".format),
            self.row("… processor time a call, µs", *cpu, "{:,.0f}".format, cpu[1] / cpu[0]),
        ]

    def start_and_memory(self):
        size = "{:,.0f}".format
        rows = [
            self.compared("ready after start, ms", "start", "ready_ms", size),
            self.compared("first call answered after start, ms", "start", "answered_ms", size),
        ]
        for name, what, figure in (
            ("resident after start, MB", "start", "idle_kib"),
            ("… after each instance was called, MB", "loaded", "resident_kib"),
            ("… under load, MB", "calls", "resident_kib"),
        ):
            few, many = (self.middle(what, target, figure) / 1024 for target in ("few", "many"))
            rows.append(self.row(name, few, many, size, many / few))
        return rows

    def requests(self):
        rows = []
        for name, words in REQUESTS.items():
            few, many = (
                median(float(row["seconds"]) * 1e3 for row in self.figures["request", target] if row["name"] == name)
                for target in ("few", "many")
            )
            rows.append(self.row(f"{words}, ms", few, many, "{:,.1f}".format, many / few))
        return rows

    def text(self):
        c = self.conditions
        head = [""] + [
            f"{int(c[f'instances.{target}']):,} of {int(c[f'definitions.{target}']):,}" for target in ("few", "many")
        ]
        grown = self.middle("loaded", "many", "resident_kib") - self.middle("start", "many", "idle_kib")
        made = int(c["instances.many"]) * 1e3 / self.middle("made", "many", "ms")
        return "\n\n".join(
            [
                f"{c['date']}; {c['cores']} cores ({c['processor']}) shared by load, service and upstream; {c['kernel']}; "
                f"service {c['service']}, {c['database'] or 'SQLite'}, nginx {c['nginx']}, wrk {c['wrk']}; {c['rounds']} rounds "
                f"of {c['seconds']} s each at {c['connections']} connections, interleaved; load average before: "
                f"{c['load_before']}.",
                "Instances of definitions:",
                table(head + ["ratio"], self.calls() + self.start_and_memory() + self.requests()),
                f"An instance in use takes {grown / int(c['instances.many']):.1f} KiB of memory. {made:,.0f} instances a "
                f"second were made with their credentials. The binary has {int(c['binary_bytes']) / 2**20:.0f} MB.",
            ]
        )


def main():
    conditions = dict(line.rstrip("\n").split("=", 1) for line in open(sys.argv[2]))
    print(Report(read_figures(sys.argv[1]), conditions).text())


main()
