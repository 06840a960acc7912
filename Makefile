# `make help` lists the targets. PYTHON is the interpreter that creates .venv, version 3.10 or newer.
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
PY := $(BIN)/python

DEMO := $(CURDIR)/demo
SEED := 1
RUNS := $(DEMO)/seed_$(SEED)
HELD_OUT := west
SMALL := --store $(DEMO)/prepared --path $(RUNS)/checkpoints --data $(HELD_OUT)
# The voxels of the synthetic scans measure about 3 mm; pancreas coarse sees larger ones. A narrow network, a high learning
# rate and few epochs take minutes instead of days. In so few steps, more is learned from a single view of each box.
TRAIN := $(SMALL) --resume --seed $(SEED) --width 8 --workers 0 --lr 3e-3 --validate-every 40

# Tables and JSON of the benchmarks; for instance `make bench BENCH_OPTIONS="--threads 1 --clock cpu"`.
BENCH := $(CURDIR)/bench
BENCH_OPTIONS :=
GPU_OPTIONS :=
MEASURE = $(PY) benchmarks/$(1).py $(BENCH_OPTIONS) --json $(BENCH)/$(1)

.PHONY: help install demo demo-first demo-last bench bench-peers gpu test test-slow lint format clean
.DEFAULT_GOAL := help

help: ## list the targets with their descriptions
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: .venv/installed ## create .venv and install the packages that the scripts need

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed. Name one, for instance: make PYTHON=python3.11 install" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --requirement requirements.txt
	@touch $@

.venv/installed-dev: requirements-dev.txt requirements-dicom.txt .venv/installed
	$(PY) -m pip install --quiet --requirement requirements-dev.txt
	@touch $@

demo: .venv/installed ## train and evaluate the cascade on synthetic centres (7 to 18 minutes on 2 cores); continues if interrupted
	$(PY) -m data.phantom $(DEMO)/raw --centres north south --cases 32
	$(PY) -m data.phantom $(DEMO)/raw --centres $(HELD_OUT) --cases 8
	@for centre in north south west; do \
	  $(PY) -m data.verify folder $(DEMO)/raw/$$centre --centre $$centre --store $(DEMO)/prepared && \
	  $(PY) -m data.prepare folder $(DEMO)/raw/$$centre --centre $$centre --store $(DEMO)/prepared || exit 2; \
	done
	@$(MAKE) --no-print-directory --jobs 2 demo-first demo-last
	cd evaluate_pancreas; $(PY) evaluate_sh_pancreas_coarse.py $(SMALL)
	cd evaluate_pancreas; $(PY) evaluate_sh_pancreas_fine.py $(SMALL)
	cd evaluate_tumor; $(PY) evaluate_sh_tumor_coarse.py $(SMALL)
	cd evaluate_tumor; $(PY) evaluate_sh_tumor_fine.py $(SMALL)
	$(PY) -m data.phantom $(DEMO)/unseen --centres $(HELD_OUT) --cases 1 --seed 1
	$(PY) predict.py $(DEMO)/unseen/$(HELD_OUT)/images/*.nii.gz -o $(RUNS)/predictions --data $(HELD_OUT) --path $(RUNS)/checkpoints
	@echo; echo "Results on the centre $(HELD_OUT), which was held out of every training:"; echo
	@cat $(RUNS)/checkpoints/pancreas_fine/$(HELD_OUT)/*/evaluation_predicted/summary.txt; echo
	@cat $(RUNS)/checkpoints/tumor_fine/$(HELD_OUT)/*/evaluation_predicted/summary.txt
	@echo; echo "Pictures:"; ls $(RUNS)/predictions/*.png $(RUNS)/checkpoints/*/$(HELD_OUT)/*/evaluation*/*.png $(RUNS)/checkpoints/*/$(HELD_OUT)/*/curves.png

# The trainings of the four stages do not depend on each other. That of tumour fine, which has to learn what a tumour is
# not, takes as long as the three others together; each side gets a core, and only the latter show their progress.
demo-first demo-last: export OMP_NUM_THREADS := 1

demo-first:
	cd train_pancreas; $(PY) train_sh_pancreas_coarse.py $(TRAIN) --variant contrast --target-mm 6,6,6 --epochs 10
	cd train_pancreas; $(PY) train_sh_pancreas_fine.py $(TRAIN) --target-mm 3,3,3 --epochs 18
	cd train_tumor; $(PY) train_sh_tumor_coarse.py $(TRAIN) --variant sdf --target-mm 3,3,3 --epochs 24

demo-last:
	cd train_tumor; $(PY) train_sh_tumor_fine.py $(TRAIN) --quiet --variant sdf --target-mm 3,3,3 --ramp 0 --epochs 120

bench: .venv/installed .venv-peers/installed ## compare the speed with other packages (about 8 minutes on 2 cores); JSON in bench/
	$(call MEASURE,training_step).json --width 8
	$(call MEASURE,training_step)_wide.json --width 32 --stages tumor_fine --repeats 3
	$(call MEASURE,augmentation).json
	$(call MEASURE,signed_distance).json
	$(call MEASURE,inference).json
	$(call MEASURE,input_pipeline).json
	$(call MEASURE,scaling).json

gpu: .venv/installed-dev ## try everything that needs a GPU in 8 minutes; output in gpu/ (GPU_OPTIONS="--device cpu --tiny" rehearses)
	$(PY) benchmarks/gpu_session.py $(CURDIR)/gpu $(GPU_OPTIONS)

bench-peers: .venv-peers/installed ## install the packages that the benchmarks compare with, in .venv-peers

.venv-peers/installed: requirements-bench.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --requirement requirements-bench.txt
	@touch $@

test: lint ## install everything, then run the linter, the type checker and the tests, on all cores
	OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses auto --dist loadfile

test-slow: .venv/installed-dev ## run the tests that take minutes: damaged files, kills and failing disks (about 40 minutes on 2 cores)
	$(PY) -m pytest -m slow

lint: .venv/installed-dev ## run ruff (rules and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-dev ## apply the automatic corrections of ruff and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## delete the folder of the demo
	rm -rf $(DEMO)
