# cmake -DWERROR=ON|OFF -P DraftattnPtxas.cmake -- COMPILER ARGUMENT...: runs nvcc and fails where
# ptxas says that a kernel will be far slower than it is written. To ptxas some of that is mere
# information which no -Werror reaches:
#
#     C7508  setmaxnreg is ignored
#     C7510 to C7515, C7520  wgmma is serialised: for want of registers (C7511, C7512), for a
#                            branch between products (C7520), ...
#     spilled registers, but for those of repair's factor, which waits for its pivots (four words,
#                        on 12.0 alone; ptxas does not say for which device it warns)
#
# With WERROR any warning is a failure.
set(command "")
set(ours OFF)
math(EXPR last "${CMAKE_ARGC} - 1")
foreach(i RANGE ${last})
  if(ours)
    string(REPLACE ";" "\\;" argument "${CMAKE_ARGV${i}}")
    list(APPEND command "${argument}")
  elseif(CMAKE_ARGV${i} STREQUAL "--")
    set(ours ON)
  endif()
endforeach()
execute_process(COMMAND ${command} RESULT_VARIABLE failed OUTPUT_VARIABLE words
                ERROR_VARIABLE words)
set(excused "_Z13factor_kernel")
string(REGEX REPLACE "ptxas warning : Registers are spilled[^\n]* '${excused}[^\n]*\n" "" words
       "${words}")
string(STRIP "${words}" words)
if(NOT words STREQUAL "")
  message("${words}")
endif()
if(failed)
  message(FATAL_ERROR "nvcc failed")
endif()
if(words MATCHES "\\((C7508|C751[0-5]|C7520)\\)|Registers are spilled")
  message(FATAL_ERROR "ptxas: ${CMAKE_MATCH_0}: the kernel would be far slower than it is written")
endif()
if(WERROR AND words MATCHES "warning")
  message(FATAL_ERROR "a warning, and DRAFTATTN_WERROR is on")
endif()
