# find_package(lil): the headers and libraries of an installed lil-cpp wheel, for C and C++ programs.
#
#   cmake -Dlil_ROOT="$(python -c 'import importlib.util as u;
# print(u.find_spec("lil").submodule_search_locations[0])')"
#
#   find_package(lil REQUIRED)
#   target_link_libraries(program PRIVATE lil::llama)
#
# The program finds the libraries where the wheel is installed: CMake writes that folder into it.

get_filename_component(_lil_root "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)

foreach(_lil_name ggml-base ggml llama mtmd)
    if(TARGET lil::${_lil_name})
        continue()
    endif()
    find_library(_lil_library
        NAMES         lil-${_lil_name} liblil-${_lil_name}
        PATHS         "${_lil_root}/llama_cpp/lib"
        NO_CACHE NO_DEFAULT_PATH)
    if(_lil_library)
        add_library(lil::${_lil_name} UNKNOWN IMPORTED)
        set_target_properties(lil::${_lil_name} PROPERTIES
            IMPORTED_LOCATION             "${_lil_library}"
            INTERFACE_INCLUDE_DIRECTORIES "${_lil_root}/include")
    endif()
    unset(_lil_library)
endforeach()

if(NOT TARGET lil::llama OR NOT TARGET lil::ggml OR NOT TARGET lil::ggml-base)
    set(lil_FOUND FALSE)
    set(lil_NOT_FOUND_MESSAGE "no lil libraries in ${_lil_root}/llama_cpp/lib")
    return()
endif()

set_property(TARGET lil::ggml  PROPERTY INTERFACE_LINK_LIBRARIES lil::ggml-base)
set_property(TARGET lil::llama PROPERTY INTERFACE_LINK_LIBRARIES lil::ggml lil::ggml-base)
set_property(TARGET lil::llama PROPERTY INTERFACE_COMPILE_DEFINITIONS LLAMA_SHARED GGML_SHARED)
if(TARGET lil::mtmd)
    set_property(TARGET lil::mtmd PROPERTY INTERFACE_LINK_LIBRARIES lil::llama)
endif()
