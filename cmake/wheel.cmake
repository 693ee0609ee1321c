# What goes into the wheel, relative to its folder lil/ (pyproject.toml: wheel.install-dir):
#
#   llama_cpp/       the bindings, generated from upstream's
#   llama_cpp/lib/   the native libraries, under names of their own
#   bin/             upstream's programs, linked to them (LIL_PROGRAMS)
#   include/         llama.h, ggml*.h, gguf.h, lil.h
#   cmake/           lil-config.cmake: find_package(lil) for C and C++ programs
#   licenses         upstream's, in the wheel's metadata folder
#
# Every rule belongs to the component `lil`; upstream's own install rules do not, so they do not run.

#
# libraries
#

set(LIL_LIBDIR llama_cpp/lib)

if(APPLE)
    set(LIL_ORIGIN "@loader_path")
else()
    set(LIL_ORIGIN "$ORIGIN")
endif()

get_target_property(LIL_GGML_DIR ggml SOURCE_DIR)
get_property(LIL_TARGETS DIRECTORY "${LIL_GGML_DIR}" PROPERTY BUILDSYSTEM_TARGETS)
get_property(subdirs     DIRECTORY "${LIL_GGML_DIR}" PROPERTY SUBDIRECTORIES)
foreach(dir ${subdirs})
    get_property(targets DIRECTORY "${dir}" PROPERTY BUILDSYSTEM_TARGETS)
    list(APPEND LIL_TARGETS ${targets})
endforeach()
list(APPEND LIL_TARGETS llama llama-common mtmd ${LIL_PROGRAM_LIBRARIES})

foreach(target ${LIL_TARGETS})
    if(NOT TARGET ${target})
        continue()
    endif()
    get_target_property(type ${target} TYPE)
    if(NOT type MATCHES "^(SHARED|MODULE)_LIBRARY$")
        continue()
    endif()

    # A name that no other llama.cpp in the same process has: the dynamic linker takes a library of the same soname as
    # one that it already loaded. Backends loaded at run time are found by their file name, and have no soname to clash.
    if(type STREQUAL "SHARED_LIBRARY")
        set_target_properties(${target} PROPERTIES OUTPUT_NAME "lil-${target}")
    endif()
    # a wheel cannot hold the links libx.so -> libx.so.0 -> libx.so.0.1.0; it would hold three copies
    set_property(TARGET ${target} PROPERTY VERSION)
    set_property(TARGET ${target} PROPERTY SOVERSION)
    # the headers are installed below, all in one folder
    set_property(TARGET ${target} PROPERTY PUBLIC_HEADER)
    set_property(TARGET ${target} PROPERTY PRIVATE_HEADER)

    set_target_properties(${target} PROPERTIES
        INSTALL_RPATH "${LIL_ORIGIN}" BUILD_WITH_INSTALL_RPATH ON INSTALL_RPATH_USE_LINK_PATH OFF)

    install(TARGETS ${target}
        LIBRARY DESTINATION ${LIL_LIBDIR} COMPONENT lil
        RUNTIME DESTINATION ${LIL_LIBDIR} COMPONENT lil
        ARCHIVE DESTINATION ${LIL_LIBDIR} COMPONENT lil)
endforeach()

#
# programs
#

set(LIL_BINDIR bin)
if(WIN32) # a program finds its libraries in its own folder
    set(LIL_BINDIR ${LIL_LIBDIR})
endif()
foreach(target ${LIL_PROGRAM_TARGETS})
    set_target_properties(${target} PROPERTIES
        INSTALL_RPATH "${LIL_ORIGIN}/../${LIL_LIBDIR}" INSTALL_RPATH_USE_LINK_PATH OFF)
    install(TARGETS ${target} RUNTIME DESTINATION ${LIL_BINDIR} COMPONENT lil)
endforeach()

#
# headers
#

install(DIRECTORY "${LIL_LLAMA_CPP}/include/" "${LIL_LLAMA_CPP}/ggml/include/"
    "${CMAKE_CURRENT_SOURCE_DIR}/src/include/"
    DESTINATION include COMPONENT lil FILES_MATCHING PATTERN "*.h")
if(TARGET mtmd)
    install(FILES "${LIL_LLAMA_CPP}/tools/mtmd/mtmd.h" "${LIL_LLAMA_CPP}/tools/mtmd/mtmd-helper.h"
        DESTINATION include COMPONENT lil)
endif()
install(FILES cmake/lil-config.cmake DESTINATION cmake COMPONENT lil)

#
# bindings
#

lil_script("generating the bindings" "${CMAKE_CURRENT_SOURCE_DIR}/scripts/bindings.py"
    "${LIL_UPSTREAM}/llama_cpp" "${CMAKE_CURRENT_BINARY_DIR}/python/lil/llama_cpp" lil.llama_cpp)
install(DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/python/lil/llama_cpp/" DESTINATION llama_cpp COMPONENT lil)

#
# licences
#

if(DEFINED SKBUILD_METADATA_DIR)
    set(dir "${SKBUILD_METADATA_DIR}/licenses")
    install(FILES "${LIL_UPSTREAM}/LICENSE.md" DESTINATION "${dir}/llama-cpp-python" COMPONENT lil)
    install(FILES "${LIL_LLAMA_CPP}/LICENSE" "${LIL_LLAMA_CPP}/AUTHORS" DESTINATION "${dir}/llama.cpp" COMPONENT lil)
    install(DIRECTORY "${LIL_LLAMA_CPP}/licenses" DESTINATION "${dir}/llama.cpp" COMPONENT lil)
    # of the code of others that is compiled in (xxHash, rotate-bits, ...)
    install(DIRECTORY "${LIL_LLAMA_CPP}/vendor" DESTINATION "${dir}/llama.cpp" COMPONENT lil
        FILES_MATCHING PATTERN "LICENSE*")
endif()
