"""Benchmarks by name; a benchmark's module is imported when it is asked for."""

import pkgutil

from eval.benchmarks.benchmark import Benchmark
from pipeline.core.recipe import RecipeError

# Name -> module and class. A new benchmark is one file and one line here.
CLASSES = {
    "mmvp": "eval.benchmarks.mmvp:Mmvp",
    "cvbench": "eval.benchmarks.cvbench:CvBench",
    "realworldqa": "eval.benchmarks.realworldqa:RealWorldQa",
    "mmhal": "eval.benchmarks.mmhal:MmHal",
    "naturalbench": "eval.benchmarks.naturalbench:NaturalBench",
    "pope": "eval.benchmarks.pope:Pope",
    "hallusionbench": "eval.benchmarks.hallusionbench:HallusionBench",
    "textvqa": "eval.benchmarks.textvqa:TextVqa",
    "scienceqa": "eval.benchmarks.scienceqa:ScienceQa",
}


def benchmark(name: str) -> Benchmark:
    """The benchmark of this name.

    Raises:
        RecipeError: There is none.
    """
    if name not in CLASSES:
        raise RecipeError(f"benchmark {name!r}: expected one of {', '.join(CLASSES)}")
    return pkgutil.resolve_name(CLASSES[name])()
