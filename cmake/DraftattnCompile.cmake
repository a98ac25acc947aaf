# One place for flags that hold for every target of ours.
set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_C_FLAGS_RELEASE "-O3 -DNDEBUG")

add_library(draftattn_flags INTERFACE)
# OpenMP pragmas are code here: every target that compiles C sees the flag.
target_compile_definitions(draftattn_flags INTERFACE _POSIX_C_SOURCE=200809L _DEFAULT_SOURCE)
target_compile_options(draftattn_flags INTERFACE
  $<$<COMPILE_LANGUAGE:C>:-Wall -Wextra -Wpointer-arith -Wstrict-prototypes -Wvla -fno-math-errno>
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra>
  # clang warns of an 'omp simd' that it leaves as it is; that is no mistake of the source.
  $<$<COMPILE_LANG_AND_ID:C,Clang,AppleClang>:-Wno-pass-failed>
  $<$<AND:$<BOOL:${DRAFTATTN_WERROR}>,$<COMPILE_LANGUAGE:C,CXX>>:-Werror>)
