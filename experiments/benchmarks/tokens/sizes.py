"""How long MiniLM takes with one stage before its second block, by the number of tokens that it leaves of 256.

python experiments/benchmarks/tokens/sizes.py 176 180 184 188 192 196 200 203 208 216 224
"""

import argparse

from cases import CASES

from nas.export.parent_export import ParentExport
from nas.parent.parent import load_parent_model
from nas.profiling.effort import Effort
from nas.profiling.host import measure_architectures
from nas.progress import Silent
from search_spaces.architecture import Architecture
from search_spaces.level import THOUSAND
from search_spaces.schedule import Reduction, Schedule, Scorer, Stage

SECONDS, ROUNDS = 90.0, 40


def main() -> None:
    """Print the ratio to the parent, medians of interleaved runs in two processes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sizes", nargs="+", type=int, help="tokens that are left, the first one among them")
    sizes, case = parser.parse_args().sizes, CASES["minilm"]
    parent, workload = load_parent_model(case.name, case.texts), case.workload
    dense, droppable = Architecture(parent.anatomy.depth), parent.shape.count_droppable(workload.sequence)

    def build_leaving(size: int) -> Architecture:
        permille = -(-(size - workload.sequence + droppable) * THOUSAND // droppable)
        return dense.replace_tokens(Schedule((Stage(1, permille),), Reduction(Scorer.KEYS)))

    export = ParentExport(parent, Silent(), workload.phase)
    chosen = [build_leaving(size) for size in sizes]
    records = measure_architectures(parent.model, export.graphs, chosen, workload, Effort(SECONDS, ROUNDS))
    ratios = {record.architecture: record.measurement.compute_ratio() for record in records}
    for size, architecture in zip(sizes, chosen, strict=True):
        print(f"{size} tokens ({architecture.tokens}): {ratios[architecture]:.3f} of the parent")


if __name__ == "__main__":
    main()
