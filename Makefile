# make demo      set everything up in this checkout, get a small real model, and run the main job
# make test      set up and run every test, C and Python
# make check     style, types and links, under a minute; make format puts in order what can be put in order
# make test-vulkan   the portable form on ggml's Vulkan backend, in a tree of its own; a software device (Mesa's
#                    lavapipe) will do
# make test-cuda     on a machine with such a GPU: our ops against the CPU's, and every method; likewise test-metal
# make test-asan     caches, states and ops under AddressSanitizer and UndefinedBehaviorSanitizer; a tree of its own
# make test-tsan     our ops, and how threads wait for each other, under ThreadSanitizer; a tree of its own
#
# make build     the wheel, built and installed into .venv
# make vendor    an editable, patched tree of upstream's sources in .vendor, one commit per patch
# make patches   vendor/patches anew from that tree
# make check-patches [VERSION=x.y.z]   which patches apply (to another version of llama-cpp-python)
# make clean     removes what was built; .cache (downloads, the stock wheel) and .vendor stay
#
# CMAKE_ARGS reaches llama.cpp's options: CMAKE_ARGS="-DGGML_CUDA=ON" make demo
# PYTHON names the interpreter, PYTEST_ARGS what pytest gets, LIL_LLAMA_CPP_PYTHON_SDIST a file already downloaded.

PYTHON      ?= python3
PYTEST_ARGS ?=

VENV  := .venv
PY    := $(VENV)/bin/python
STEP  := $(PY) scripts/step.py
MODEL := .cache/models/SmolLM2-135M-Instruct.Q4_1.gguf
TINY  := .cache/models

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell $(PYTHON) -c \
	'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')

.PHONY: all help build demo test test-c test-python check format test-vulkan test-cuda test-metal test-asan test-tsan \
	stock model vendor patches check-patches clean

all: build

help:
	@sed -n 's/^# \{0,1\}//p; /^$$/q' Makefile

# the environment: build tools (cmake and ninja only where the system has none), test tools
$(VENV)/.ready: pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 10) or \
		sys.exit(f"lil: Python 3.10 or later is needed, {sys.executable} is {v[0]}.{v[1]}; name another: " \
			"make PYTHON=python3.12 ...")'
	@echo "lil: setting up $(VENV)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "lil: $(PYTHON) cannot make a virtual environment (on Debian and Ubuntu: apt install python3-venv)" >&2; \
		exit 1; }
	@$(PY) -m pip install --quiet "scikit-build-core>=0.11" "pytest>=7.4.0" "httpx>=0.24.1" "gguf>=0.10" "scipy>=1.10" \
		"huggingface-hub>=0.23" \
		$$(command -v cmake >/dev/null || echo "cmake>=3.21") $$(command -v ninja >/dev/null || echo ninja)
	@touch $@

# incremental: ninja rebuilds what changed, and the wheel is packed again
build: $(VENV)/.ready
	@rm -rf build/wheels
	@$(STEP) "building lil-cpp" build/logs/wheel.log -- \
		$(PY) -m pip wheel --verbose --no-build-isolation --no-deps --wheel-dir build/wheels .
	@echo "lil: installing it, and what it depends on, into $(VENV)"
	@$(PY) -m pip install --quiet "$$(ls build/wheels/lil_cpp-*.whl)[server,demo]"
	@$(PY) -m pip install --quiet --no-deps --force-reinstall build/wheels/lil_cpp-*.whl

model: $(VENV)/.ready
	@$(PY) scripts/get_model.py .cache/models

# unmodified llama-cpp-python, which tests compare with; built once per checkout
stock: $(VENV)/.ready
	@if ! ls .cache/wheels/llama_cpp_python-*.whl >/dev/null 2>&1; then \
		sdist=$$($(PY) scripts/vendor.py fetch) && \
		CMAKE_ARGS="-DLLAVA_BUILD=OFF -DCMAKE_PROJECT_llama.cpp_INCLUDE=$(CURDIR)/cmake/stock.cmake" \
		$(STEP) "building stock llama-cpp-python, to compare with" build/logs/stock.log -- \
			$(PY) -m pip wheel --verbose --no-build-isolation --no-deps --no-cache-dir --wheel-dir .cache/wheels "$$sdist"; \
	fi
	@$(PY) -c 'import importlib.metadata as m; m.version("llama_cpp_python")' 2>/dev/null || \
		$(PY) -m pip install --quiet .cache/wheels/llama_cpp_python-*.whl

demo: build model
	@$(PY) -m lil.demo $(MODEL)

test: test-c test-python

# the C tests use the installed wheel's headers and libraries, as a user's program would
test-c: build model stock
	@cd tests/python && ../../$(PY) -m reference ../../$(TINY)
	@$(STEP) "building the C tests" build/logs/tests-c.log -- sh -c '\
		cmake -S tests/c -B build/tests-c -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DLIL_MODEL=$(CURDIR)/$(MODEL) \
			-DLIL_TINY=$(CURDIR)/$(TINY) \
			-DLIL_SITE="$$($(PY) -c "import sysconfig; print(sysconfig.get_path(\"platlib\"))")" && cmake --build build/tests-c'
	@ctest --test-dir build/tests-c --output-on-failure

test-python: build model stock
	@$(PY) -m pip install --quiet "$$(ls build/wheels/lil_cpp-*.whl)[test]"
	@$(PY) -m pytest $(PYTEST_ARGS)

# of fixed versions, so that everybody's say the same
CHECKERS   := ruff==0.17.6 mypy==2.4.1 clang-format==23.1.5
PY_SOURCES := python tests/python benchmarks scripts
C_SOURCES   = $(shell git ls-files -co --exclude-standard "src/*.[ch]" "src/*.cpp" "src/*.cu" "tests/c/*.[ch]" \
	"tests/c/*.cpp" "examples/*.c" "benchmarks/*.c" "benchmarks/*.cpp")

$(VENV)/.checkers: Makefile $(VENV)/.ready
	@$(PY) -m pip install --quiet $(CHECKERS)
	@touch $@

# mypy looks at the bindings that the build lays out
check: $(VENV)/.checkers
	@$(PY) -c 'import lil' 2>/dev/null || $(MAKE) build
	@$(VENV)/bin/ruff check --quiet $(PY_SOURCES)
	@$(VENV)/bin/ruff format --quiet --check $(PY_SOURCES) || { echo "lil: make format puts these in order:"; \
		$(VENV)/bin/ruff format --check $(PY_SOURCES); exit 1; }
	@$(VENV)/bin/mypy --no-error-summary
	@$(VENV)/bin/clang-format --dry-run --Werror $(C_SOURCES)
	@$(PY) scripts/check_docs.py
	@echo "lil: style, types and links are in order"

format: $(VENV)/.checkers
	@$(VENV)/bin/ruff check --quiet --fix-only $(PY_SOURCES)
	@$(VENV)/bin/ruff format --quiet $(PY_SOURCES)
	@$(VENV)/bin/clang-format -i $(C_SOURCES)

# the native libraries with a GPU backend, in a tree of their own, and the tests that want a device.
# GGML_VK_VISIBLE_DEVICES names Vulkan's, by its number in vulkaninfo; unnamed, ggml leaves out devices that are no GPU
test-vulkan: export GGML_VK_VISIBLE_DEVICES ?= 0
test-vulkan: GPU_TESTS := test-gpu-methods
test-cuda test-metal: GPU_TESTS := test-gpu-
test-vulkan test-cuda test-metal: export LIL_REQUIRE_GPU := 1
test-vulkan test-cuda test-metal: test-%: $(VENV)/.ready
	@test $* != vulkan || command -v glslc >/dev/null || \
		{ echo "lil: the Vulkan backend's shaders need glslc (on Debian and Ubuntu: apt install glslc libvulkan-dev \
			spirv-headers mesa-vulkan-drivers)" >&2; exit 1; }
	@test $* != cuda || command -v nvcc >/dev/null || test -n "$$CUDACXX" || \
		{ echo "lil: the CUDA backend needs nvcc: have it in PATH, or name it in CUDACXX" >&2; exit 1; }
	@cd tests/python && ../../$(PY) -m reference ../../$(TINY)
	@$(STEP) "building the native libraries for $*" build/logs/$*.log -- sh -c '\
		cmake -S . -B build/$* -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_$(shell echo $* | tr a-z A-Z)=ON \
			-DLLAVA_BUILD=OFF -DPython_EXECUTABLE="$(CURDIR)/$(PY)" $(CMAKE_ARGS) && \
		cmake --build build/$* && cmake --install build/$* --component lil --prefix build/$*/site/lil'
	@$(STEP) "building the GPU tests" build/logs/tests-$*.log -- sh -c '\
		cmake -S tests/c -B build/tests-$* -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DLIL_TINY=$(CURDIR)/$(TINY) \
			-DLIL_SITE=$(CURDIR)/build/$*/site && \
		cmake --build build/tests-$* --target test-gpu-ops test-gpu-methods test-gpu-greedy bench_attention'
	@ctest --test-dir build/tests-$* --output-on-failure -R $(GPU_TESTS)

# the native libraries and some C tests, compiled with ThreadSanitizer
TSAN_TESTS := test-threads test-attn-ops test-select-ops
TSAN_FLAGS := -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_C_FLAGS=-fsanitize=thread -DCMAKE_CXX_FLAGS=-fsanitize=thread

test-tsan: export TSAN_OPTIONS ?= halt_on_error=1
test-tsan: $(VENV)/.ready
	@$(STEP) "building the native libraries for ThreadSanitizer" build/logs/tsan.log -- sh -c '\
		cmake -S . -B build/tsan -G Ninja $(TSAN_FLAGS) \
			-DLLAVA_BUILD=OFF -DPython_EXECUTABLE="$(CURDIR)/$(PY)" $(CMAKE_ARGS) && \
		cmake --build build/tsan && cmake --install build/tsan --component lil --prefix build/tsan/site/lil'
	@$(STEP) "building the tests" build/logs/tests-tsan.log -- sh -c '\
		cmake -S tests/c -B build/tests-tsan -G Ninja $(TSAN_FLAGS) -DLIL_SITE=$(CURDIR)/build/tsan/site && \
		cmake --build build/tests-tsan --target $(TSAN_TESTS)'
	@ctest --test-dir build/tests-tsan --output-on-failure -R "^($$(echo $(TSAN_TESTS) | tr " " "|"))$$"

# The native libraries and the tests of caches, states and ops, compiled with AddressSanitizer and
# UndefinedBehaviorSanitizer. Of the architectures one without and one with sliding windows; the emulated GPUs' tests,
# which bring sanitizers of their own, and those of a real model, which are slow, are left out
ASAN_TINY  := dense evict evict-kept select memory states steps
ASAN_OPS   := attn-ops select-ops os-memory
ASAN       := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
ASAN_FLAGS := -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_C_FLAGS="$(ASAN)" -DCMAKE_CXX_FLAGS="$(ASAN)"

test-asan: export ASAN_OPTIONS ?= detect_leaks=0
test-asan: export UBSAN_OPTIONS ?= print_stacktrace=1
test-asan: $(VENV)/.ready
	@cd tests/python && ../../$(PY) -m reference ../../$(TINY)
	@$(STEP) "building the native libraries for the sanitizers" build/logs/asan.log -- sh -c '\
		cmake -S . -B build/asan -G Ninja $(ASAN_FLAGS) \
			-DLLAVA_BUILD=OFF -DPython_EXECUTABLE="$(CURDIR)/$(PY)" $(CMAKE_ARGS) && \
		cmake --build build/asan && cmake --install build/asan --component lil --prefix build/asan/site/lil'
	@$(STEP) "building the tests" build/logs/tests-asan.log -- sh -c '\
		cmake -S tests/c -B build/tests-asan -G Ninja $(ASAN_FLAGS) \
			-DLIL_TINY=$(CURDIR)/$(TINY) -DLIL_SITE=$(CURDIR)/build/asan/site && \
		cmake --build build/tests-asan --target $(addprefix test-,$(ASAN_TINY) $(ASAN_OPS))'
	@ctest --test-dir build/tests-asan --output-on-failure \
		-R "^test-(($$(echo $(ASAN_TINY) | tr " " "|"))-(llama|gemma3)|$$(echo $(ASAN_OPS) | tr " " "|"))$$"

vendor: $(VENV)/.ready
	@$(PY) scripts/vendor.py edit .vendor

patches: $(VENV)/.ready
	@$(PY) scripts/vendor.py export .vendor

check-patches: $(VENV)/.ready
	@$(PY) scripts/vendor.py check $(if $(VERSION),--version $(VERSION))

clean:
	rm -rf build $(VENV)
