"""Benchmarks by name; a benchmark's module is imported when it is asked for."""

import importlib

from eval.benchmarks.benchmark import Benchmark
from pipeline.core.recipe import RecipeError

# Name -> module with BENCHMARK. A new benchmark is one file and one line here.
MODULES = {
    "mmvp": "eval.benchmarks.mmvp",
    "cvbench": "eval.benchmarks.cvbench",
    "realworldqa": "eval.benchmarks.realworldqa",
    "mmhal": "eval.benchmarks.mmhal",
    "naturalbench": "eval.benchmarks.naturalbench",
    "pope": "eval.benchmarks.pope",
    "hallusionbench": "eval.benchmarks.hallusionbench",
    "textvqa": "eval.benchmarks.textvqa",
    "scienceqa": "eval.benchmarks.scienceqa",
}


def benchmark(name: str) -> Benchmark:
    """The benchmark of this name.

    Raises:
        RecipeError: There is none.
    """
    if name not in MODULES:
        raise RecipeError(f"benchmark {name!r}: expected one of {', '.join(MODULES)}")
    chosen: Benchmark = importlib.import_module(MODULES[name]).BENCHMARK
    return chosen
