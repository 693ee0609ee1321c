# GCC's _tile_loadconfig() says of 64 bytes that it reads 8 (GCC bug 114098; mended in 11.5, 12.4, 13.3 and 14). The
# rest of the configuration is never written, and the first prompt ends in an illegal instruction or a segmentation
# fault on processors with AMX. LIL_GCC_AMX: what leaves AMX out.
set(LIL_GCC_AMX)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    foreach(mended 11.5 12.4 13.3)
        string(REGEX MATCH "^[0-9]+" major ${mended})
        if(CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL ${major}
                AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS ${mended})
            set(LIL_GCC_AMX -mno-amx-tile -mno-amx-int8 -mno-amx-bf16)
        endif()
    endforeach()
endif()
