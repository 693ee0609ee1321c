# What makes the build quick and takes nothing from a step of the model: upstream's files whose headers take longer than
# they do compiled as one, and less optimisation of its programs. libllama and ggml keep their flags, and so do the
# tools whose own loops run over whole logits or activations (llama-perplexity, llama-imatrix).

# lil_compile_as_one(TARGET PATTERN...)
function(lil_compile_as_one target)
    if(TARGET ${target})
        list(TRANSFORM ARGN PREPEND "${LIL_LLAMA_CPP}/")
        file(GLOB sources CONFIGURE_DEPENDS ${ARGN})
        set_source_files_properties(${sources} TARGET_DIRECTORY ${target} PROPERTIES UNITY_GROUP one)
        set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
    endif()
endfunction()

lil_compile_as_one(llama-common      common/parsers/*.cpp common/jinja/*.cpp)
lil_compile_as_one(mtmd              tools/mtmd/models/*.cpp)
lil_compile_as_one(llama-server-impl tools/server/server.cpp tools/server/server-http.cpp
                                     tools/server/server-models.cpp)
lil_compile_as_one(llama-cli-impl    tools/cli/cli*.cpp)

# lil_optimise(LEVEL TARGET [FILE...]): all of a target, or some of its files, which are then compiled apart. Other
# compilers and kinds of build (with debug information, say) keep what they have.
function(lil_optimise level target)
    if(NOT TARGET ${target} OR NOT CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
        return()
    endif()
    set(option "$<$<CONFIG:Release>:${level}>")
    if(ARGN)
        list(TRANSFORM ARGN PREPEND "${LIL_LLAMA_CPP}/")
        set_source_files_properties(${ARGN} TARGET_DIRECTORY ${target} PROPERTIES COMPILE_OPTIONS "${option}")
    else()
        target_compile_options(${target} PRIVATE "${option}")
    endif()
endfunction()

# once for a request or a token
lil_optimise(-O2 llama-common)
lil_optimise(-O2 mtmd)
lil_optimise(-O2 server-context)

# once, or beside requests
lil_optimise(-O1 llama-common common/arg.cpp common/debug.cpp common/download.cpp common/fit.cpp common/hf-cache.cpp
    common/json-schema-to-grammar.cpp common/preset.cpp)
lil_optimise(-O1 server-context tools/server/server-mcp.cpp tools/server/server-schema.cpp
    tools/server/server-stream.cpp tools/server/server-tools.cpp)
foreach(target cpp-httplib llama-batched-bench-impl llama-bench-impl llama-cli-impl llama-quantize-impl
        llama-server-impl)
    lil_optimise(-O1 ${target})
endforeach()
