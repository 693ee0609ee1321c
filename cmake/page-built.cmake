# After upstream's script, which only warns of a page that could not be built.

if(NOT EXISTS "${PAGE}")
    set(what "npm could not build llama-server's web page; what it said is above")
    if(LIL_PAGE STREQUAL "AUTO")
        message("lil: ${what}; llama-server has none")
    else()
        message(FATAL_ERROR "lil: LIL_PAGE=${LIL_PAGE}, but ${what}. LIL_PAGE=OFF leaves the page out.")
    endif()
endif()
