# Runs ${lil} and ${stock} with ${model}; both must succeed and print the same.

foreach(side lil stock)
    execute_process(COMMAND "${${side}}" "${model}" RESULT_VARIABLE result
        OUTPUT_VARIABLE out_${side} ERROR_VARIABLE err)
    if(NOT result EQUAL 0)
        message(FATAL_ERROR "${${side}} failed (${result})\n${out_${side}}\n${err}")
    endif()
endforeach()

if(NOT out_lil STREQUAL out_stock)
    message(FATAL_ERROR "the same program prints, with our libraries:\n${out_lil}\nwith stock:\n${out_stock}")
endif()
message("${out_lil}")
