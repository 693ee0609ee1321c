# Included after llama.cpp's project() where the tests build stock llama-cpp-python to compare with: leaves out a
# library that the package does not ship.
set(LLAMA_BUILD_COMMON OFF)
