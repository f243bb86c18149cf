# MB/s of ours, of upstream's wheel and of ib_write_bw: bench/bench.py, which writes bench.json.
exec build/venv/bin/python tests/roce/bench/bench.py
