# Included after llama.cpp's project() where the tests build stock llama-cpp-python to compare with: leaves out a
# library that the package does not ship, and AMX where the compiler makes it crash.
set(LLAMA_BUILD_COMMON OFF)

include("${CMAKE_CURRENT_LIST_DIR}/gcc-amx.cmake")
cmake_language(EVAL CODE "cmake_language(DEFER CALL target_compile_options ggml-cpu PRIVATE ${LIL_GCC_AMX})")
