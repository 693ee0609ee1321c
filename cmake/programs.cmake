# Upstream's programs, from the patched tree: those that are named here go into the wheel, the others are not built.

set(LIL_PROGRAM_TARGETS
    llama-server llama-cli llama-bench llama-batched-bench llama-perplexity llama-imatrix llama-quantize)

# the programs' code, in libraries of its own
set(LIL_PROGRAM_LIBRARIES
    llama-server-impl llama-cli-impl llama-bench-impl llama-batched-bench-impl llama-perplexity-impl
    llama-quantize-impl)

get_property(LIL_TOOLS DIRECTORY "${LIL_LLAMA_CPP}/tools" PROPERTY SUBDIRECTORIES)
foreach(dir ${LIL_TOOLS})
    get_property(targets DIRECTORY "${dir}" PROPERTY BUILDSYSTEM_TARGETS)
    foreach(target ${targets})
        get_target_property(type ${target} TYPE)
        if(type STREQUAL "EXECUTABLE" AND NOT target IN_LIST LIL_PROGRAM_TARGETS)
            set_target_properties(${target} PROPERTIES EXCLUDE_FROM_ALL TRUE)
        elseif(type MATCHES "LIBRARY$" AND target MATCHES "-impl$" AND NOT target IN_LIST LIL_PROGRAM_LIBRARIES)
            set_target_properties(${target} PROPERTIES EXCLUDE_FROM_ALL TRUE)
        endif()
    endforeach()
endforeach()
