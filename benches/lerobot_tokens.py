#!/usr/bin/env python3
"""Runs the golden sets' full_bench.py with another number of prompt tokens than its 20.

    lerobot_tokens.py TOKENS FULL_BENCH.PY [options of full_bench.py]

full_bench.py takes its inputs from make_inputs of the gen_golden.py beside it, so that function is given the number instead.
"""
import runpy
import sys
from pathlib import Path

tokens, script = int(sys.argv[1]), Path(sys.argv[2]).resolve()
sys.path.insert(0, str(script.parent))
import gen_golden  # noqa: E402

make_inputs = gen_golden.make_inputs
gen_golden.make_inputs = lambda preset, cameras, _tokens: make_inputs(preset, cameras, tokens)
sys.argv = [str(script), *sys.argv[3:]]
runpy.run_path(str(script), run_name="__main__")
