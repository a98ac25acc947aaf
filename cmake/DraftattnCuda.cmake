# DRAFTATTN_CUDA: AUTO takes CUDA when an nvcc is there that can do it, ON insists, OFF never looks.
#
# Architectures: CMAKE_CUDA_ARCHITECTURES where it is given; else those of the GPUs in this machine;
# else all that the kernels are written for, and PTX of the newest for GPUs to come. Sets
#
#     DRAFTATTN_HAVE_CUDA    ON or OFF
#     DRAFTATTN_CUDA_SM90    ON where the kernels of compute capability 9.0 are wanted
#     DRAFTATTN_CUDA_CODE    what the binary will hold, in backend_cuda.c's words: "80 90a 120 120+"
set(DRAFTATTN_HAVE_CUDA OFF)
if(NOT DRAFTATTN_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "DRAFTATTN_CUDA is '${DRAFTATTN_CUDA}'; it takes AUTO, ON or OFF")
endif()
set(DRAFTATTN_NVCC_LEAST 12.0) # the first that knows sm_90a

# draftattn_no_cuda(reason): AUTO goes on without, ON does not.
function(draftattn_no_cuda reason)
  if(DRAFTATTN_CUDA STREQUAL ON)
    message(FATAL_ERROR "DRAFTATTN_CUDA=ON, but ${reason}, or configure with -DDRAFTATTN_CUDA=OFF.")
  endif()
  message(STATUS "draftattn: no CUDA backend: ${reason}")
endfunction()

# Compute capabilities of the GPUs in this machine, as 80 or 90a; empty where there is none.
function(draftattn_local_gpus out)
  set(found "")
  find_program(DRAFTATTN_NVIDIA_SMI nvidia-smi)
  mark_as_advanced(DRAFTATTN_NVIDIA_SMI)
  if(DRAFTATTN_NVIDIA_SMI)
    execute_process(COMMAND ${DRAFTATTN_NVIDIA_SMI} --query-gpu=compute_cap --format=csv,noheader
                    OUTPUT_VARIABLE lines ERROR_QUIET RESULT_VARIABLE failed)
    if(NOT failed)
      string(REGEX MATCHALL "[0-9]+\\.[0-9]" found "${lines}")
      list(TRANSFORM found REPLACE "\\." "")
      list(TRANSFORM found REPLACE "^90$" "90a")
      list(FILTER found EXCLUDE REGEX "^([0-9]|[0-7][0-9])$")
      list(REMOVE_DUPLICATES found)
    endif()
  endif()
  set(${out} "${found}" PARENT_SCOPE)
endfunction()

# draftattn_choose_architectures(nvcc-version out): see above.
function(draftattn_choose_architectures version out)
  draftattn_local_gpus(local)
  if(local)
    list(TRANSFORM local APPEND "-real")
    set(${out} "${local}" PARENT_SCOPE)
  elseif(version VERSION_GREATER_EQUAL 12.8)
    set(${out} 80-real 86-real 89-real 90a-real 90-virtual 120 PARENT_SCOPE) # 10.0 takes PTX of 9.0
  else()
    set(${out} 80-real 86-real 89-real 90a-real 90-virtual PARENT_SCOPE)
  endif()
endfunction()

# What is in the binary when these architectures are compiled.
function(draftattn_describe_architectures architectures out)
  set(code "")
  foreach(entry ${architectures})
    if(NOT entry MATCHES "^([0-9]+)[af]?(-real|-virtual)?$" OR CMAKE_MATCH_1 LESS 80)
      message(FATAL_ERROR "CMAKE_CUDA_ARCHITECTURES holds '${entry}'; the kernels are for 80 and "
                          "later, such as 80, 90a-real or 120-virtual. Without the option the GPUs "
                          "of this machine decide.")
    endif()
    string(REGEX REPLACE "-.*" "" name ${entry})
    if(NOT entry MATCHES "-virtual$")
      list(APPEND code ${name})
    endif()
    if(NOT entry MATCHES "-real$")
      list(APPEND code ${name}+)
    endif()
  endforeach()
  list(JOIN code " " code)
  set(${out} "${code}" PARENT_SCOPE)
endfunction()

if(NOT DRAFTATTN_CUDA STREQUAL OFF)
  include(CheckLanguage)
  set(chosen ${CMAKE_CUDA_ARCHITECTURES})
  if(NOT chosen)
    set(CMAKE_CUDA_ARCHITECTURES 80-real) # one that every nvcc knows: this is about the compiler
  endif()
  check_language(CUDA)
  set(version "")
  if(CMAKE_CUDA_COMPILER)
    execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --version OUTPUT_VARIABLE words ERROR_QUIET)
    string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" words "${words}")
    set(version ${CMAKE_MATCH_1})
  endif()
  if(NOT CMAKE_CUDA_COMPILER)
    draftattn_no_cuda("there is no nvcc that compiles: install the CUDA toolkit and put nvcc on \
PATH (or set CUDACXX)")
  elseif(NOT version VERSION_GREATER_EQUAL DRAFTATTN_NVCC_LEAST)
    draftattn_no_cuda("${CMAKE_CUDA_COMPILER} is of CUDA ${version}: install CUDA \
${DRAFTATTN_NVCC_LEAST} or later and set CUDACXX to its nvcc")
  else()
    if(NOT chosen)
      draftattn_choose_architectures(${version} CMAKE_CUDA_ARCHITECTURES)
    endif()
    draftattn_describe_architectures("${CMAKE_CUDA_ARCHITECTURES}" DRAFTATTN_CUDA_CODE)
    set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
    enable_language(CUDA)
    find_package(CUDAToolkit)
    if(CUDAToolkit_FOUND)
      set(DRAFTATTN_HAVE_CUDA ON)
    else()
      draftattn_no_cuda("the toolkit of ${CMAKE_CUDA_COMPILER} is incomplete: install all of it")
    endif()
  endif()
endif()

set(DRAFTATTN_CUDA_SM90 OFF)
if(DRAFTATTN_HAVE_CUDA AND DRAFTATTN_CUDA_CODE MATCHES "(^| )90a?( |$)")
  set(DRAFTATTN_CUDA_SM90 ON)
endif()
if(DRAFTATTN_HAVE_CUDA)
  message(STATUS "draftattn: CUDA backend ON, CUDA ${version}, code for ${DRAFTATTN_CUDA_CODE}")
else()
  message(STATUS "draftattn: CUDA backend OFF")
endif()

# draftattn_cuda_target(name): flags of everything of ours that nvcc compiles, by way of a launcher
# that reads what ptxas says.
function(draftattn_cuda_target name)
  target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr
    $<$<CONFIG:RelWithDebInfo>:-lineinfo> # of a release it would be three quarters
    -Xptxas -warn-spills --threads 0 -Xcompiler=-Wall,-Wextra
    $<$<NOT:$<STREQUAL:$<TARGET_PROPERTY:TYPE>,EXECUTABLE>>:-Xcompiler=-fno-exceptions>>)
  set_target_properties(${name} PROPERTIES CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON
    CUDA_VISIBILITY_PRESET hidden CUDA_COMPILER_LAUNCHER
    "${CMAKE_COMMAND};-DWERROR=${DRAFTATTN_WERROR};-P;\
${PROJECT_SOURCE_DIR}/cmake/DraftattnPtxas.cmake;--")
endfunction()
