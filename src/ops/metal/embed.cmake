# The text of our Metal library: the headers and all kernels of this folder one after the other, without the includes
# among them. Metal compiles it where it is first needed, so it goes into the program as a string.

set(LIL_METAL_DIR "${CMAKE_CURRENT_LIST_DIR}")

# dir/lil.metal, the text; dir/lil-metal-source.cpp, which defines it as lil_metal_source. Made anew where a kernel
# changed
function(lil_metal_embed dir)
    file(GLOB kernels CONFIGURE_DEPENDS "${LIL_METAL_DIR}/*.metal")
    list(SORT kernels)

    set(files)
    foreach(header lil-metal-args lil-metal topk dirty score-block)
        list(APPEND files "${LIL_METAL_DIR}/${header}.h")
    endforeach()
    list(APPEND files ${kernels})

    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${files})

    set(all "")
    set(source "extern const char lil_metal_source[];\n\nconst char lil_metal_source[] =\n")
    foreach(file ${files})
        file(READ "${file}" text)
        string(REGEX REPLACE "(^|\n)#(include \"[^\n]*|pragma once)" "\\1" text "${text}")
        string(APPEND all "${text}")
        string(APPEND source "R\"lil(${text})lil\"\n")
    endforeach()
    string(APPEND source ";\n")

    foreach(out lil.metal lil-metal-source.cpp)
        set(text "${source}")
        if(out STREQUAL "lil.metal")
            set(text "${all}")
        endif()

        set(before "")
        if(EXISTS "${dir}/${out}")
            file(READ "${dir}/${out}" before)
        endif()
        if(NOT before STREQUAL text)
            file(WRITE "${dir}/${out}" "${text}")
        endif()
    endforeach()
endfunction()
