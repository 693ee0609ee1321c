# make demo      set everything up in this checkout, get a small real model, and run the main job
# make test      set up and run every test, C and Python
# make check     style, types and links, under a minute; make format puts in order what can be put in order
# make test-vulkan   the portable form on ggml's Vulkan backend, in a tree of its own; a software device (Mesa's
#                    lavapipe) will do
# make test-cuda     on a machine with such a GPU: our ops against the CPU's, and every method; likewise test-metal
# make test-asan     caches, states and ops under AddressSanitizer and UndefinedBehaviorSanitizer; a tree of its own
# make test-tsan     our ops, and how threads wait for each other, under ThreadSanitizer; a tree of its own
# make test-x86      ops, LZ77, Guardian, threads for plain x86-64 and for AVX2; make test-arm64: NEON, dotprod, SVE
#                    under qemu; make test-windows: under Wine
#
# make gpu-kit      build/gpu-kit and build/gpu-kit.tar.xz: libraries for CUDA (sm_90), tests and benchmarks for a bare
#                   machine with a GPU, where build/gpu-kit/run.sh OUT runs them in eight minutes; needs nvcc
# make gpu-rehearsal   such a kit with the CPU's libraries and an emulated device, and its run.sh
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

export CTEST_PARALLEL_LEVEL ?= $(CMAKE_BUILD_PARALLEL_LEVEL)

.PHONY: all help build demo test test-c test-python check format test-vulkan test-cuda test-metal test-asan test-tsan \
	test-x86 test-arm64 test-windows gpu-kit gpu-kit-built gpu-rehearsal tiny \
	stock stock-server model vendor patches check-patches clean

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

# Unmodified llama-cpp-python, which tests compare with. Built once for each version and way of building
STOCK := .cache/wheels/$(shell cat vendor/lock.json cmake/stock.cmake cmake/gcc-amx.* | cksum | cut -d' ' -f1)
stock: $(VENV)/.stock-$(notdir $(STOCK))
$(VENV)/.stock-$(notdir $(STOCK)): $(VENV)/.ready
	@if ! ls $(STOCK)/llama_cpp_python-*.whl >/dev/null 2>&1; then \
		sdist=$$($(PY) scripts/vendor.py fetch) && \
		CMAKE_ARGS="-DLLAVA_BUILD=OFF -DCMAKE_PROJECT_llama.cpp_INCLUDE=$(CURDIR)/cmake/stock.cmake" \
		$(STEP) "building stock llama-cpp-python, to compare with" build/logs/stock.log -- \
			$(PY) -m pip wheel --verbose --no-build-isolation --no-deps --no-cache-dir --wheel-dir $(STOCK) "$$sdist"; \
	fi
	@$(PY) -m pip install --quiet --force-reinstall --no-deps $(STOCK)/llama_cpp_python-*.whl
	@rm -f $(VENV)/.stock-* && touch $@

demo: build model
	@$(PY) -m lil.demo $(MODEL)

test: test-c test-python

# the C tests use the installed wheel's headers and libraries, as a user's program would
test-c: build model stock tiny
	@$(STEP) "building the C tests" build/logs/tests-c.log -- sh -c '\
		cmake -S tests/c -B build/tests-c -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DLIL_MODEL=$(CURDIR)/$(MODEL) \
			-DLIL_TINY=$(CURDIR)/$(TINY) \
			-DLIL_SITE="$$($(PY) -c "import sysconfig; print(sysconfig.get_path(\"platlib\"))")" && cmake --build build/tests-c'
	@ctest --test-dir build/tests-c --output-on-failure

test-python: build model stock
	@$(PY) -m pip install --quiet "$$(ls build/wheels/lil_cpp-*.whl)[test]"
	@$(PY) -m pytest -n $(CTEST_PARALLEL_LEVEL) --dist loadfile $(PYTEST_ARGS)

# unpatched llama-server, to compare with
stock-server: $(VENV)/.ready
	@mkdir -p build/stock-server/src && tar -xzf "$$($(PY) scripts/vendor.py fetch)" --strip-components=1 \
		-C build/stock-server/src
	@$(STEP) "building upstream's llama-server, to compare with" build/logs/stock-server.log -- sh -c '\
		cmake -S build/stock-server/src/vendor/llama.cpp -B build/stock-server -G Ninja -DCMAKE_BUILD_TYPE=Release \
			-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_USE_PREBUILT_UI=OFF \
			-DCMAKE_PROJECT_llama.cpp_INCLUDE=$(CURDIR)/cmake/stock.cmake -DLIL_STOCK_SERVER=ON && \
		cmake --build build/stock-server --target llama-server'

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
	@out=$$($(PY) -m pytest --quiet --no-header tests/python/test_lines.py) || { echo "$$out"; exit 1; }
	@echo "lil: style, types and links are in order"

format: $(VENV)/.checkers
	@$(VENV)/bin/ruff check --quiet --fix-only $(PY_SOURCES)
	@$(VENV)/bin/ruff format --quiet $(PY_SOURCES)
	@$(VENV)/bin/clang-format -i $(C_SOURCES)

# Native libraries in a tree of their own, and tests linked to them:
#   $(call tree,NAME,CMAKE FLAGS)  build/NAME, installed into build/NAME/site
#   $(call tree_tests,NAME,CMAKE FLAGS,TARGETS)  build/tests-NAME
define tree
	@$(STEP) "building the native libraries: $(1)" build/logs/$(1).log -- sh -c '\
		cmake -S . -B build/$(1) -G Ninja $(2) -DLLAVA_BUILD=OFF -DPython_EXECUTABLE="$(CURDIR)/$(PY)" $(CMAKE_ARGS) && \
		cmake --build build/$(1) && cmake --install build/$(1) --component lil --prefix build/$(1)/site/lil'
endef
define tree_tests
	@$(STEP) "building the tests: $(1)" build/logs/tests-$(1).log -- sh -c '\
		cmake -S tests/c -B build/tests-$(1) -G Ninja $(2) -DLIL_MODEL=$(CURDIR)/$(MODEL) -DLIL_TINY=$(CURDIR)/$(TINY) \
			-DLIL_SITE=$(CURDIR)/build/$(1)/site -DPython_EXECUTABLE="$(CURDIR)/$(PY)" && \
		cmake --build build/tests-$(1) --target $(3)'
endef
# an expression of ctest that means these tests and no others
exactly = "^($$(echo $(1) | tr " " "|"))$$"

# tiny random models, which tests run on
tiny: $(VENV)/.ready
	@$(PY) tests/python/reference/gguf_models.py $(TINY)

# the tests that want a device, with its backend. GGML_VK_VISIBLE_DEVICES names Vulkan's, by its number in vulkaninfo;
# unnamed, ggml leaves out devices that are no GPU
test-vulkan: export GGML_VK_VISIBLE_DEVICES ?= 0
test-vulkan: GPU_TESTS := test-gpu-methods
test-cuda test-metal: GPU_TESTS := test-gpu-
test-vulkan test-cuda test-metal: export LIL_REQUIRE_GPU := 1
test-vulkan test-cuda test-metal: test-%: tiny
	@test $* != vulkan || command -v glslc >/dev/null || \
		{ echo "lil: the Vulkan backend's shaders need glslc (on Debian and Ubuntu: apt install glslc libvulkan-dev \
			spirv-headers mesa-vulkan-drivers)" >&2; exit 1; }
	@test $* != cuda || command -v nvcc >/dev/null || test -n "$$CUDACXX" || \
		{ echo "lil: the CUDA backend needs nvcc: have it in PATH, or name it in CUDACXX" >&2; exit 1; }
	$(call tree,$*,-DCMAKE_BUILD_TYPE=Release -DGGML_$(shell echo $* | tr a-z A-Z)=ON)
	$(call tree_tests,$*,-DCMAKE_BUILD_TYPE=RelWithDebInfo,test-gpu-ops test-gpu-methods test-gpu-greedy bench_attention)
	@ctest --test-dir build/tests-$* --output-on-failure -R $(GPU_TESTS)

# for a machine with a GPU, which may have nothing but Python and the driver, and for minutes only. Neither the driver's
# library nor perhaps cuBLAS is where the tests are linked
comma := ,
gpu-kit: tiny
	@flags=$$($(PY) scripts/gpu/kit.py flags build/kit-deps) && $(MAKE) gpu-kit-built KIT_FLAGS="$$flags"
gpu-kit-built:
	$(call tree,kit,-DCMAKE_BUILD_TYPE=Release $(KIT_FLAGS))
	$(call tree_tests,kit,-DCMAKE_BUILD_TYPE=Release -DCMAKE_EXE_LINKER_FLAGS=-Wl$(comma)--allow-shlib-undefined,\
		test-gpu-ops test-gpu-methods test-gpu-greedy bench_attention)
	@$(PY) scripts/gpu/kit.py pack build/gpu-kit --site build/kit/site --tests build/tests-kit

EMU := test-emu-gpu-ops-cuda test-emu-gpu-methods-cuda test-emu-gpu-greedy-cuda bench_attention

gpu-rehearsal: build model tiny
	@$(STEP) "building the emulated device's tests" build/logs/tests-emu.log -- sh -c '\
		cmake -S tests/c -B build/tests-c -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DLIL_MODEL=$(CURDIR)/$(MODEL) \
			-DLIL_TINY=$(CURDIR)/$(TINY) \
			-DLIL_SITE="$$($(PY) -c "import sysconfig; print(sysconfig.get_path(\"platlib\"))")" && \
		cmake --build build/tests-c --target $(EMU)'
	@$(PY) scripts/gpu/kit.py pack build/gpu-rehearsal --site "$$($(PY) -c \
		'import sysconfig; print(sysconfig.get_path("platlib"))')" --tests build/tests-c --emulated
	@build/gpu-rehearsal/run.sh build/gpu-rehearsal-out $(MODEL) --small

# some tests, compiled with ThreadSanitizer
TSAN_TESTS := test-threads test-attn-ops test-select-ops
TSAN_FLAGS := -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_C_FLAGS=-fsanitize=thread -DCMAKE_CXX_FLAGS=-fsanitize=thread

test-tsan: export TSAN_OPTIONS ?= halt_on_error=1
test-tsan: $(VENV)/.ready
	$(call tree,tsan,$(TSAN_FLAGS))
	$(call tree_tests,tsan,$(TSAN_FLAGS),$(TSAN_TESTS))
	@ctest --test-dir build/tests-tsan --output-on-failure -R $(call exactly,$(TSAN_TESTS))

# The tests of caches, states and ops, compiled with AddressSanitizer and UndefinedBehaviorSanitizer. Of the
# architectures one without and one with sliding windows. Left out: what looks at how much memory is taken, which the
# sanitizers change; the emulated GPUs' tests, which bring sanitizers of their own; a real model's, which are slow
ASAN_TINY  := dense evict evict-kept select states steps
ASAN_TESTS := $(addprefix test-,$(ASAN_TINY) attn-ops select-ops os-memory)
# a program in C may hand over any number as an enum, and gets an error: no undefined behaviour without -fstrict-enums
ASAN       := -fsanitize=address,undefined -fno-sanitize=enum -fno-sanitize-recover=undefined -fno-omit-frame-pointer
ASAN_FLAGS := -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_C_FLAGS="$(ASAN)" -DCMAKE_CXX_FLAGS="$(ASAN)"

test-asan: export ASAN_OPTIONS ?= detect_leaks=0
test-asan: export UBSAN_OPTIONS ?= print_stacktrace=1
test-asan: tiny
	$(call tree,asan,$(ASAN_FLAGS))
	$(call tree_tests,asan,$(ASAN_FLAGS) -DLIL_TIMEOUT=1200,$(ASAN_TESTS))
	@ctest --test-dir build/tests-asan --output-on-failure -R $(call exactly,$(ASAN_TESTS) \
		$(foreach test,$(ASAN_TINY),test-$(test)-llama test-$(test)-gemma3))

# Every form of the vector code: ops, LZ77, Guardian and threads, compiled for other processors than this one;
# arm64 and Windows are cross-compiled and emulated
FORM_TESTS := test-attn-ops test-select-ops test-lz77 test-guardian test-threads test-os-memory

FORM_FLAGS_x86-plain := $(foreach f,SSE42 AVX AVX2 BMI2 FMA F16C,-DGGML_$(f)=OFF)
FORM_FLAGS_x86-avx2  :=
ARM64                := -DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/cmake/arm64.cmake
FORM_FLAGS_arm64-neon    := $(ARM64) -DGGML_CPU_ARM_ARCH=armv8-a
FORM_FLAGS_arm64-dotprod := $(ARM64) -DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16
FORM_FLAGS_arm64-sve     := $(ARM64) -DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16+sve
FORM_FLAGS_windows       := -DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/cmake/windows.cmake

test-form-%: model
	$(call tree,$*,-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=OFF $(FORM_FLAGS_$*))
	$(call tree_tests,$*,-DCMAKE_BUILD_TYPE=Release $(filter -DCMAKE_TOOLCHAIN_FILE=%,$(FORM_FLAGS_$*)),$(FORM_TESTS))
	@ctest --test-dir build/tests-$* --output-on-failure -R $(call exactly,$(FORM_TESTS))

test-x86: test-form-x86-plain test-form-x86-avx2

test-arm64:
	@for tool in aarch64-linux-gnu-g++ qemu-aarch64; do command -v $$tool >/dev/null || { echo "lil: no $$tool; the \
		tests for arm64 need it (on Debian and Ubuntu: apt install g++-aarch64-linux-gnu qemu-user)" >&2; exit 1; }; done
	@$(MAKE) test-form-arm64-neon test-form-arm64-dotprod test-form-arm64-sve

# Wine finds the libraries as Windows does: ours, and those of the compiler
test-windows: export WINEPATH = $(subst $(eval) ,;,$(foreach dir,$(CURDIR)/build/windows/site/lil/llama_cpp/lib \
	$(dir $(shell x86_64-w64-mingw32-g++-posix -print-file-name=libstdc++-6.dll)) \
	$(dir $(shell x86_64-w64-mingw32-g++-posix -print-file-name=libwinpthread-1.dll)),Z:$(dir)))
test-windows: export WINEDEBUG ?= -all
test-windows:
	@for tool in x86_64-w64-mingw32-g++-posix wine; do command -v $$tool >/dev/null || { echo "lil: no $$tool; the \
		tests for Windows need it (on Debian and Ubuntu: apt install g++-mingw-w64-x86-64-posix wine)" >&2; exit 1; }; done
	@$(MAKE) test-form-windows

vendor: $(VENV)/.ready
	@$(PY) scripts/vendor.py edit .vendor

patches: $(VENV)/.ready
	@$(PY) scripts/vendor.py export .vendor

check-patches: $(VENV)/.ready
	@$(PY) scripts/vendor.py check $(if $(VERSION),--version $(VERSION))

clean:
	rm -rf build $(VENV)
