# llama-server's web page: upstream's sources (tools/ui) and ours, built by npm while the rest is compiled. Never the
# built page that upstream would download.
#
#   LIL_PAGE=AUTO   where npm is there and reaches its registry; a page that cannot be built is left out, and said so
#   LIL_PAGE=ON     it is an error if it cannot be built
#   LIL_PAGE=OFF    not at all

set(LIL_PAGE AUTO CACHE STRING "lil: llama-server's web page, built by npm: AUTO, ON, OFF")
set_property(CACHE LIL_PAGE PROPERTY STRINGS AUTO ON OFF)

set(LLAMA_BUILD_UI        OFF)
set(LLAMA_USE_PREBUILT_UI OFF)

if(LIL_PAGE)
    set(why "")
    find_program(LIL_NPM NAMES npm.cmd npm)
    if(NOT LIL_NPM)
        set(why "npm was not found")
    elseif(LIL_PAGE STREQUAL "AUTO")
        # without a network npm would try a thousand packages, for two minutes
        execute_process(
            COMMAND         "${LIL_NPM}" view svelte version --fetch-retries=0
            RESULT_VARIABLE result
            TIMEOUT         20
            OUTPUT_QUIET
            ERROR_QUIET)
        if(NOT result EQUAL 0)
            set(why "npm does not reach its registry")
        endif()
    endif()

    if(why STREQUAL "")
        set(LLAMA_BUILD_UI ON)
    elseif(LIL_PAGE STREQUAL "AUTO")
        message(STATUS "lil: llama-server will have no web page: ${why}")
    else()
        message(FATAL_ERROR "lil: LIL_PAGE=${LIL_PAGE}, but ${why}; LIL_PAGE=OFF leaves llama-server's web page out")
    endif()
endif()

if(LLAMA_BUILD_UI)
    # only where they differ: upstream's script builds the page anew where a file is newer than it
    file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/src/doors/page/*.svelte")
    foreach(source ${sources})
        get_filename_component(name "${source}" NAME)
        configure_file("${source}" "${LIL_LLAMA_CPP}/tools/ui/src/lib/lil/${name}" COPYONLY)
    endforeach()

    add_custom_target(lil-page ALL
        COMMAND "${CMAKE_COMMAND}" "-DPAGE=${CMAKE_CURRENT_BINARY_DIR}/llama.cpp/tools/ui/dist/index.html"
            "-DLIL_PAGE=${LIL_PAGE}" -P "${CMAKE_CURRENT_SOURCE_DIR}/cmake/page-built.cmake")
    add_dependencies(lil-page llama-ui-assets)
endif()
