# Cross-compiling for Linux on arm64, with what it makes run by qemu: make test-arm64

set(CMAKE_SYSTEM_NAME      Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)

set(CMAKE_C_COMPILER   aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

# SVE with vectors of 16 bytes; those of more are emulated slowly (test-attn-ops: five minutes with 32)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -cpu max,sve-default-vector-length=16 -L /usr/aarch64-linux-gnu)

set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY BOTH)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE BOTH)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
