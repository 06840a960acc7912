# `make help` lists the targets. PYTHON is the interpreter that creates .venv, version 3.10 or newer.
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
PY := $(BIN)/python

DEMO := $(CURDIR)/demo
HELD_OUT := west
SMALL := --store $(DEMO)/prepared --path $(DEMO)/checkpoints --data $(HELD_OUT)
# The voxels of the synthetic scans measure about 3 mm; the first stage sees them at half their resolution.
COARSE := --target-mm 6,5,5
FINE := --target-mm 3,3,3
# A narrow network, a high learning rate and few epochs take minutes instead of days. In so few steps, pancreas coarse
# would keep an empty prediction if the consistency of the views had its full weight.
TRAIN := $(SMALL) --resume --width 8 --workers 0 --validate-every 20
PANCREAS := $(TRAIN) --lr 5e-3
TUMOUR := $(TRAIN) --lr 2e-3

.PHONY: help install demo test test-slow lint format clean
.DEFAULT_GOAL := help

help: ## list the targets with their descriptions
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: .venv/installed ## create .venv and install the packages that the scripts need

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed. Name one, for instance: make PYTHON=python3.11 install" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --requirement requirements.txt
	@touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(PY) -m pip install --quiet --requirement requirements-dev.txt
	@touch $@

demo: .venv/installed ## train and evaluate the cascade on synthetic centres (9 to 14 minutes on 2 cores); continues if interrupted
	$(PY) -m data.phantom $(DEMO)/raw --cases 8
	@for centre in north south west; do \
	  $(PY) -m data.verify folder $(DEMO)/raw/$$centre --centre $$centre --store $(DEMO)/prepared && \
	  $(PY) -m data.prepare folder $(DEMO)/raw/$$centre --centre $$centre --store $(DEMO)/prepared || exit 2; \
	done
	cd train_pancreas; $(PY) train_sh_pancreas_coarse.py $(PANCREAS) $(COARSE) --epochs 28 --weight consistency_cosine=0.1
	cd train_pancreas; $(PY) train_sh_pancreas_fine.py $(PANCREAS) $(FINE) --epochs 80
	cd train_tumor; $(PY) train_sh_tumor_coarse.py $(TUMOUR) $(FINE) --epochs 90
	cd train_tumor; $(PY) train_sh_tumor_fine.py $(TUMOUR) $(FINE) --epochs 200
	cd evaluate_pancreas; $(PY) evaluate_sh_pancreas_coarse.py $(SMALL)
	cd evaluate_pancreas; $(PY) evaluate_sh_pancreas_fine.py $(SMALL)
	cd evaluate_tumor; $(PY) evaluate_sh_tumor_coarse.py $(SMALL)
	cd evaluate_tumor; $(PY) evaluate_sh_tumor_fine.py $(SMALL)
	$(PY) -m data.phantom $(DEMO)/unseen --centres $(HELD_OUT) --cases 1 --seed 1
	$(PY) predict.py $(DEMO)/unseen/$(HELD_OUT)/images/*.nii.gz -o $(DEMO)/predictions --data $(HELD_OUT) --path $(DEMO)/checkpoints
	@echo; echo "Results on the centre $(HELD_OUT), which was held out of every training:"; echo
	@cat $(DEMO)/checkpoints/pancreas_fine/$(HELD_OUT)/*/evaluation_predicted/summary.txt; echo
	@cat $(DEMO)/checkpoints/tumor_fine/$(HELD_OUT)/*/evaluation_predicted/summary.txt
	@echo; echo "Pictures:"; ls $(DEMO)/predictions/*.png $(DEMO)/checkpoints/*/$(HELD_OUT)/*/evaluation*/*.png $(DEMO)/checkpoints/*/$(HELD_OUT)/*/curves.png

test: lint ## install everything, then run the linter, the type checker and the tests
	$(PY) -m pytest

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
