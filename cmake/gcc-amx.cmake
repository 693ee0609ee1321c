# GCC's _tile_loadconfig() says of 64 bytes that it reads 8 (GCC bug 114098; mended in 11.5, 12.4, 13.3 and 14): the
# rest of the configuration is never written, and the first prompt ends in an illegal instruction or a segmentation
# fault on processors with AMX. LIL_GCC_AMX: options for ggml's CPU backend that put right intrinsics in their place.
set(LIL_GCC_AMX)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    set(LIL_GCC_AMX "$<$<COMPILE_LANGUAGE:CXX>:SHELL:-include \"${CMAKE_CURRENT_LIST_DIR}/gcc-amx.h\">")
endif()
