# Included after llama.cpp's project() where stock llama-cpp-python or llama-server is built to compare with: leaves out
# a library that the package does not ship, and mends AMX where the compiler makes it crash.
if(NOT LIL_STOCK_SERVER)
    set(LLAMA_BUILD_COMMON OFF)
endif()

include("${CMAKE_CURRENT_LIST_DIR}/gcc-amx.cmake")
cmake_language(EVAL CODE "cmake_language(DEFER CALL target_compile_options ggml-cpu PRIVATE [==[${LIL_GCC_AMX}]==])")
